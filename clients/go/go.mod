module tubelet.example/classify

go 1.19
