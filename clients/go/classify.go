// Classifies videos through a running tubelet server, by HTTP and with the standard library alone:
//
//	go run classify.go [-url http://HOST:PORT] [-model M] [-protocol P] [-top N] [-deadline D] [-json] VIDEO...
//
// A token in TUBELET_TOKEN is sent as "Authorization: Bearer ...".
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The server ends work at the deadline and says so; this much longer is waited for its word.
const grace = time.Second

var codeInText = regexp.MustCompile(`(?s)(?:^|[\s,;\]])(` + strings.Join([]string{
	"bad_parameter", "bad_input", "empty_video", "not_a_video", "no_video_stream", "codec_not_allowed", "encrypted",
	"truncated", "no_frames", "bad_dimensions", "too_large", "too_long", "too_many_pixels", "too_many_views",
	"decode_timeout", "overloaded", "deadline_exceeded", "cancelled", "backend_lost", "internal",
}, "|") + `): (.*)`)

// What Triton says where requests wait.
var tooMuch = regexp.MustCompile(`(?i)exceeds maximum queue size|request timeout expired`)

// Error is what went wrong: Code is one of the stable codes, Message is for people.
type Error struct {
	Code, Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Label is one class of an answer.
type Label struct {
	Name        string  `json:"name"`
	Index       int     `json:"index"`
	Probability float64 `json:"probability"`
}

// Report says how an answer came about; the server's has more.
type Report struct {
	Protocol       string             `json:"protocol"`
	Warnings       []string           `json:"warnings"`
	ContractDigest string             `json:"contract_digest"`
	Milliseconds   map[string]float64 `json:"milliseconds"`
}

// Classification is the answer for one video.
type Classification struct {
	Labels []Label   `json:"labels"` // Best first.
	Logits []float32 `json:"logits"` // One for each class.
	Report Report    `json:"report"`
}

// Wishes is what a request says beside its video.
type Wishes struct {
	Model    string
	Protocol string // Empty: the model's default.
	Top      int
	Deadline time.Duration // The server stops working on the request then.
}

// Client may be used from several goroutines at a time.
type Client struct {
	url, token string
	http       *http.Client
}

// NewClient sends nothing yet.
func NewClient(url, token string) *Client {
	return &Client{strings.TrimSuffix(url, "/"), token, &http.Client{Transport: &http.Transport{
		// A video is not to travel through a proxy that happens to stand in the environment.
		Proxy: nil,
		// Answers are small, and packing them would only cost time.
		DisableCompression: true,
	}}}
}

// Tensors, as the binary tensor data extension of the Open Inference Protocol has them: JSON in front says how many
// bytes belong to each.
type tensor struct {
	Name       string         `json:"name"`
	Datatype   string         `json:"datatype,omitempty"`
	Shape      []int          `json:"shape,omitempty"`
	Parameters map[string]any `json:"parameters"`
}

type inference struct {
	Parameters map[string]any `json:"parameters,omitempty"`
	Inputs     []tensor       `json:"inputs,omitempty"`
	Outputs    []tensor       `json:"outputs"`
}

// Classify classifies the bytes of one video file. Its errors are of type *Error.
func (c *Client) Classify(ctx context.Context, video []byte, wishes Wishes) (*Classification, error) {
	ctx, cancel := context.WithTimeout(ctx, wishes.Deadline+grace)
	defer cancel()
	request, err := c.newRequest(ctx, video, wishes)
	if err != nil {
		return nil, &Error{"bad_input", err.Error()}
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, lost(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, lost(err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, refused(answer.StatusCode, body)
	}
	found, err := readAnswer(answer.Header, body)
	if err != nil {
		return nil, &Error{"backend_lost", "the server's answer cannot be read: " + err.Error()}
	}
	return found, nil
}

func (c *Client) newRequest(ctx context.Context, video []byte, wishes Wishes) (*http.Request, error) {
	parameters := map[string]any{"deadline_ms": strconv.FormatFloat(wishes.Deadline.Seconds()*1000, 'f', -1, 64)}
	if wishes.Protocol != "" {
		parameters["protocol"] = wishes.Protocol
	}
	head, err := json.Marshal(inference{
		Parameters: parameters,
		// An element of BYTES has its length in front, in four bytes.
		Inputs: []tensor{{"VIDEO", "BYTES", []int{1}, map[string]any{"binary_data_size": len(video) + 4}}},
		Outputs: []tensor{
			// As labels: strings "probability:index:name", best first.
			{Name: "PROBABILITIES", Parameters: map[string]any{"classification": wishes.Top, "binary_data": true}},
			{Name: "LOGITS", Parameters: map[string]any{"binary_data": true}},
			{Name: "REPORT", Parameters: map[string]any{"binary_data": true}},
		},
	})
	if err != nil {
		return nil, err
	}
	length := binary.LittleEndian.AppendUint32(nil, uint32(len(video)))
	body := bytes.Join([][]byte{head, length, video}, nil)
	// Of a bytes.Reader the length is known. Without a length the body would go out in chunks, which Triton must not get.
	url := c.url + "/v2/models/" + wishes.Model + "/infer"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.Header.Set("Inference-Header-Content-Length", strconv.Itoa(len(head)))
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	return request, nil
}

func readAnswer(header http.Header, body []byte) (*Classification, error) {
	size, err := strconv.Atoi(header.Get("Inference-Header-Content-Length"))
	if err != nil || size < 0 || size > len(body) {
		return nil, errors.New("it is not in the binary form")
	}
	var head inference
	if err := json.Unmarshal(body[:size], &head); err != nil {
		return nil, err
	}
	found, rest := &Classification{}, body[size:]
	for _, output := range head.Outputs {
		size, _ := output.Parameters["binary_data_size"].(float64)
		if size < 0 || size > float64(len(rest)) {
			return nil, fmt.Errorf("%s is cut off", output.Name)
		}
		content := rest[:int(size)]
		rest = rest[int(size):]
		switch output.Name {
		case "PROBABILITIES":
			found.Labels, err = readLabels(readStrings(content))
		case "LOGITS":
			found.Logits = readFloats(content)
		case "REPORT":
			err = json.Unmarshal([]byte(strings.Join(readStrings(content), "")), &found.Report)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", output.Name, err)
		}
	}
	return found, nil
}

func readFloats(content []byte) []float32 {
	floats := make([]float32, len(content)/4)
	for i := range floats {
		floats[i] = math.Float32frombits(binary.LittleEndian.Uint32(content[4*i:]))
	}
	return floats
}

func readStrings(content []byte) []string {
	var texts []string
	for len(content) >= 4 {
		length := int(binary.LittleEndian.Uint32(content))
		content = content[4:]
		if length > len(content) {
			break
		}
		texts = append(texts, string(content[:length]))
		content = content[length:]
	}
	return texts
}

func readLabels(texts []string) ([]Label, error) {
	var labels []Label
	for _, text := range texts {
		// A name may hold colons; a class without a name has two parts.
		parts := strings.SplitN(text, ":", 3)
		if len(parts) < 2 {
			return nil, fmt.Errorf("%q is not probability:index:name", text)
		}
		probability, err := strconv.ParseFloat(parts[0], 64)
		if err != nil {
			return nil, err
		}
		index, err := strconv.Atoi(parts[1])
		if err != nil {
			return nil, err
		}
		labels = append(labels, Label{parts[len(parts)-1], index, probability})
	}
	return labels, nil
}

// refused is the error that the server named by its code, else the one that the status means.
func refused(status int, body []byte) *Error {
	var said struct {
		Error string `json:"error"`
	}
	text := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &said) == nil && said.Error != "" {
		text = said.Error
	}
	if found := codeInText.FindStringSubmatch(text); found != nil {
		return &Error{found[1], found[2]}
	}
	if status == http.StatusTooManyRequests || tooMuch.MatchString(text) {
		return &Error{"overloaded", "the server has too much to do; try again in a second, or send less"}
	}
	text = fmt.Sprintf("the server answered %d: %s", status, text)
	switch status {
	case http.StatusBadRequest:
		return &Error{"bad_input", text}
	case http.StatusUnauthorized, http.StatusForbidden:
		return &Error{"bad_parameter", text}
	case http.StatusRequestEntityTooLarge:
		return &Error{"too_large", text}
	case http.StatusInternalServerError:
		// What failed there may have said much, which is the server's own business.
		return &Error{"backend_lost", "the server lost the model while it worked; try again in some seconds"}
	default:
		return &Error{"backend_lost", text}
	}
}

func lost(err error) *Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{"deadline_exceeded", "no answer came within the deadline; allow it more"}
	}
	if errors.Is(err, context.Canceled) {
		return &Error{"cancelled", "the caller has gone"}
	}
	return &Error{"backend_lost", "no server answers; is 'tubelet serve' running? (" + err.Error() + ")"}
}

func main() {
	url := flag.String("url", "http://127.0.0.1:8000", "address of the server's HTTP")
	asJSON := flag.Bool("json", false, "one object a line")
	var wishes Wishes
	flag.StringVar(&wishes.Model, "model", "motion", "public name of the model")
	flag.StringVar(&wishes.Protocol, "protocol", "", "how a video becomes views, such as 4x3 (default the model's)")
	flag.IntVar(&wishes.Top, "top", 5, "how many labels")
	flag.DurationVar(&wishes.Deadline, "deadline", time.Minute, "give up on a video after this time")
	flag.Parse()
	if flag.NArg() == 0 || wishes.Top < 1 || wishes.Deadline <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	client, failed := NewClient(*url, os.Getenv("TUBELET_TOKEN")), false
	for _, path := range flag.Args() {
		if err := classifyFile(client, path, wishes, *asJSON); err != nil {
			failed = true
			fmt.Fprintf(os.Stderr, "error: %s: %v\n", path, err)
		}
	}
	if failed {
		os.Exit(1)
	}
}

func classifyFile(client *Client, path string, wishes Wishes, asJSON bool) error {
	video, err := os.ReadFile(path)
	if err != nil {
		return &Error{"bad_input", err.Error()}
	}
	found, err := client.Classify(context.Background(), video, wishes)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(os.Stdout).Encode(struct {
			Video string `json:"video"`
			*Classification
		}{path, found})
	}
	fmt.Printf("%s  %s, %.0f ms\n", path, found.Report.Protocol, found.Report.Milliseconds["total"])
	for _, label := range found.Labels {
		fmt.Printf("  %.4f  %s\n", label.Probability, label.Name)
	}
	return nil
}
