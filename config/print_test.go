package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestNothingThatPrintsAConfigurationShowsASecret(t *testing.T) {
	cfg, err := Load("testdata/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	if err := cfg.Print(&printed); err != nil {
		t.Fatal(err)
	}
	for how, text := range map[string]string{"Print": printed.String(), "String": fmt.Sprintf("%v", cfg), "YAML": string(dump(cfg))} {
		if strings.Contains(text, "sk-1234") || !strings.Contains(text, "API_KEY: <secret>") {
			t.Errorf("%s shows\n%s", how, text)
		}
		for _, plain := range []string{"HF_TOKEN: /run/secrets/hf", "bearer_file: /run/secrets/gpu-2", `VLLM_SERVER_DEV_MODE: '1'`} {
			if !strings.Contains(text, plain) {
				t.Errorf("%s lacks %s:\n%s", how, plain, text)
			}
		}
	}
	if got := cfg.Models["llama-70b"].Backends[0].Process.Env["API_KEY"]; got != "sk-1234" {
		t.Errorf("after printing API_KEY is %q", got)
	}
}

func TestKeysThatLookSecret(t *testing.T) {
	for key, want := range map[string]bool{
		"HF_TOKEN": true, "api_key": true, "OPENAI_APIKEY": true, "DB_PASSWORD": true, "CLIENT_SECRET_2": true,
		"TOKENIZERS_PARALLELISM": false, "CUDA_VISIBLE_DEVICES": false, "OLLAMA_HOST": false,
	} {
		if got := looksSecret(key); got != want {
			t.Errorf("%s looks secret: %v, want %v", key, got, want)
		}
	}
}

func TestTheHashIsOfTheMeaning(t *testing.T) {
	env := func(key string) string {
		return "models: {m: {backends: [{process: {command: [serve], port: 1, env: {KEY: " + key + "}}}]}}"
	}
	one := parse(t, env("a")).Hash()
	if got := parse(t, "# a comment\nlisten: '127.0.0.1:8080'\n"+env(`"a"`)).Hash(); got != one {
		t.Errorf("a comment and a default that is written out change the hash from %s to %s", one, got)
	}
	if got := parse(t, env("b")).Hash(); got == one {
		t.Error("a changed secret leaves the hash as it was")
	}
}
