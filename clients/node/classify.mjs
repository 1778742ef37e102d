// Classifies videos through a running tubelet server, by gRPC:
//
//   node classify.mjs [--url HOST:PORT] [--model M] [--protocol P] [--top N] [--deadline-s S] [--json] VIDEO...
//
// grpcs://HOST:PORT is gRPC over TLS; a token in TUBELET_TOKEN is sent as `authorization: Bearer ...`.
// For your own code: `connect`, `classify` and `TubeletError`.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('open_inference.proto', import.meta.url));
const CODES = [
  'bad_parameter', 'bad_input', 'empty_video', 'not_a_video', 'no_video_stream', 'codec_not_allowed', 'encrypted',
  'truncated', 'no_frames', 'bad_dimensions', 'too_large', 'too_long', 'too_many_pixels', 'too_many_views',
  'decode_timeout', 'overloaded', 'deadline_exceeded', 'cancelled', 'backend_lost', 'internal',
];
const CODE_IN_TEXT = new RegExp(`(?:^|[\\s,;\\]])(${CODES.join('|')}): (.*)`, 's');
const GRACE_S = 1; // The server ends work at the deadline and says so; this much longer is waited for its word.

/** What went wrong: `code` is one of CODES and stays the same, `message` is for people. */
export class TubeletError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** A connection, for any number of requests at a time; nothing is sent yet. Close it with `client.close()`. */
export function connect(url = '127.0.0.1:8001') {
  const { inference } = grpc.loadPackageDefinition(
    protoLoader.loadSync(PROTO, { keepCase: true, longs: Number, defaults: true }),
  );
  const tls = url.startsWith('grpcs://');
  return new inference.GRPCInferenceService(
    url.replace(/^grpcs?:\/\//, ''),
    tls ? grpc.credentials.createSsl() : grpc.credentials.createInsecure(),
    {
      // Messages of any size: a video goes out whole, FEATURES may come back large. The server has limits of its own.
      'grpc.max_send_message_length': -1,
      'grpc.max_receive_message_length': -1,
      // A video is not to travel through a proxy that happens to stand in the environment.
      'grpc.enable_http_proxy': 0,
    },
  );
}

/**
 * Classifies the bytes of one video file.
 *
 * Returns `labels`, best first, each with `name`, `index`, `probability`; `logits`, a Float32Array with one for each
 * class; and `report`: protocol, warnings, times by step and more.
 */
export async function classify(client, video, { model, protocol, top = 5, deadlineS = 60, token } = {}) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(video.length);
  const wishes = { deadline_ms: String(deadlineS * 1000), ...(protocol && { protocol }) };
  const request = {
    model_name: model,
    parameters: Object.fromEntries(Object.entries(wishes).map(([name, text]) => [name, { string_param: text }])),
    inputs: [{ name: 'VIDEO', datatype: 'BYTES', shape: [1] }],
    outputs: [
      // As labels: strings `probability:index:name`, best first.
      { name: 'PROBABILITIES', parameters: { classification: { int64_param: top } } },
      { name: 'LOGITS' },
      { name: 'REPORT' },
    ],
    raw_input_contents: [Buffer.concat([length, video])],
  };
  const metadata = new grpc.Metadata();
  if (token) metadata.set('authorization', `Bearer ${token}`);
  const options = { deadline: Date.now() + (deadlineS + GRACE_S) * 1000 };
  const answer = await new Promise((resolve, reject) => {
    client.ModelInfer(request, metadata, options, (error, found) => (error ? reject(ours(error)) : resolve(found)));
  });
  const { PROBABILITIES, LOGITS, REPORT } = readTensors(answer);
  return { labels: PROBABILITIES.map(readLabel), logits: LOGITS, report: JSON.parse(REPORT[0]) };
}

/** The tensors of an answer by name: FP32 as a Float32Array, BYTES as an array of strings. */
function readTensors({ outputs, raw_output_contents: contents }) {
  const read = { FP32: readFloats, BYTES: readStrings };
  return Object.fromEntries(outputs.map(({ name, datatype }, i) => [name, read[datatype](contents[i])]));
}

function readFloats(bytes) {
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i));
}

function readStrings(bytes) {
  const strings = [];
  for (let at = 0; at < bytes.length; ) {
    const start = at + 4;
    at = start + bytes.readUInt32LE(at);
    strings.push(bytes.toString('utf8', start, at));
  }
  return strings;
}

function readLabel(text) {
  // A name may hold colons.
  const [probability, index, ...name] = text.split(':');
  return { name: name.join(':') || index, index: Number(index), probability: Number(probability) };
}

/** The error that the server named by its code, else the one that the gRPC status means. */
function ours({ code, details }) {
  const said = CODE_IN_TEXT.exec(details);
  if (said) return new TubeletError(said[1], said[2]);
  if (/exceeds maximum queue size|request timeout expired/i.test(details)) {
    return new TubeletError('overloaded', 'the server has too much to do; try again in a second, or send less');
  }
  switch (code) {
    case grpc.status.DEADLINE_EXCEEDED:
      return new TubeletError('deadline_exceeded', 'no answer came within the deadline; allow it more');
    case grpc.status.INVALID_ARGUMENT:
      return new TubeletError('bad_input', details);
    case grpc.status.UNAUTHENTICATED:
    case grpc.status.PERMISSION_DENIED:
      return new TubeletError('bad_parameter', details);
    case grpc.status.RESOURCE_EXHAUSTED:
      return new TubeletError('too_large', details);
    case grpc.status.UNAVAILABLE:
      return new TubeletError('backend_lost', `no server or model answers; is 'tubelet serve' running? (${details})`);
    case grpc.status.INTERNAL:
      // What failed there may have said much, which is the server's own business.
      return new TubeletError('backend_lost', 'the server lost the model while it worked; try again in some seconds');
    default:
      return new TubeletError('backend_lost', details);
  }
}

function readArguments() {
  const { values, positionals: videos } = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: 'string', default: '127.0.0.1:8001' },
      model: { type: 'string', default: 'motion' },
      protocol: { type: 'string' },
      top: { type: 'string', default: '5' },
      'deadline-s': { type: 'string', default: '60' },
      json: { type: 'boolean', default: false },
    },
  });
  const [top, deadlineS] = [Number(values.top), Number(values['deadline-s'])];
  if (!videos.length) throw new TypeError('name at least one video');
  if (!(Number.isInteger(top) && top > 0)) throw new TypeError('--top is a number of labels');
  if (!(deadlineS > 0)) throw new TypeError('--deadline-s is a number of seconds');
  return { ...values, videos, top, deadlineS };
}

async function main({ url, videos, json, ...wishes }) {
  const client = connect(url);
  for (const video of videos) {
    try {
      show(video, await classify(client, await read(video), { ...wishes, token: process.env.TUBELET_TOKEN }), json);
    } catch (error) {
      if (!(error instanceof TubeletError)) throw error;
      console.error(`error: ${video}: ${error.code}: ${error.message}`);
      process.exitCode = 1;
    }
  }
  client.close();
}

async function read(path) {
  try {
    return await readFile(path);
  } catch (error) {
    throw new TubeletError('bad_input', error.message);
  }
}

function show(video, { labels, logits, report }, asJson) {
  if (asJson) return console.log(JSON.stringify({ video, labels, logits: [...logits], report }));
  console.log(`${video}  ${report.protocol}, ${report.milliseconds.total.toFixed(0)} ms`);
  for (const { probability, name } of labels) console.log(`  ${probability.toFixed(4)}  ${name}`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  let wishes;
  try {
    wishes = readArguments();
  } catch (error) {
    console.error(`error: ${error.message}`);
    process.exit(2);
  }
  await main(wishes);
}
