package config_test

import (
	"fmt"

	"pilotlight/config"
)

func ExampleParse() {
	cfg, err := config.Parse("pilotlight.yaml", []byte(`
models:
  llama-8b:
    idle_time: 90s
    backends:
      - process:
          command: [llama-server, -m, llama-8b.gguf, --port, "{port}"]
        engine: llama.cpp
        memory: 9GiB
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	m := cfg.Models["llama-8b"]
	fmt.Println(m.IdleTime, m.StopAfter, m.Backends[0].Name, m.Backends[0].Memory)
	// Output: 1m30s 24h llama-8b-0 9GiB
}

func ExampleProblems() {
	_, err := config.Parse("pilotlight.yaml", []byte(`models:
  llama-8b:
    idel_time: 90s
    backends:
      - address: 127.0.0.1:8000
        stall: 90 seconds
`))
	fmt.Println(err)
	// Output:
	// pilotlight.yaml:3:5: unknown key "idel_time"; did you mean "idle_time"?
	//      3 |     idel_time: 90s
	//        |     ^
	// pilotlight.yaml:6:16: "90 seconds" is not a duration; write one like 90s or 2m
	//      6 |         stall: 90 seconds
	//        |                ^
}
