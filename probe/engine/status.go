package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"pilotlight/probe"
)

// garbled is the status of a server whose answer cannot be read.
func garbled(a answer, err error) (probe.Status, string) {
	return probe.Loading, fmt.Sprintf("%s answered what we cannot read: %v", a.request, err)
}

// vllmStatus reads GET /is_sleeping, which exists in development mode (VLLM_SERVER_DEV_MODE=1) only: a vLLM without it
// cannot sleep, so it is awake.
func vllmStatus(a answer) (probe.Status, string) {
	if a.err == nil && a.code == 404 {
		return probe.Ready, "ready"
	}
	if !a.ok() {
		return a.notReady()
	}
	var page struct {
		IsSleeping bool `json:"is_sleeping"`
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return garbled(a, err)
	}
	if page.IsSleeping {
		return probe.Asleep, "its engine sleeps"
	}
	return probe.Ready, "ready"
}

// llamaStatus reads GET /models. Only a router (llama-server without a model of its own) gives its models a status. A model
// that is "sleeping" there is ready: the next request wakes it, and nothing else can.
func llamaStatus(a answer, model string) (probe.Status, string) {
	if a.err == nil && a.code == 404 { // a server that has nothing to say of its models has one, and it is loaded
		return probe.Ready, "ready"
	}
	if !a.ok() {
		return a.notReady()
	}
	var page struct {
		Data []struct {
			ID      string   `json:"id"`
			Aliases []string `json:"aliases"`
			Status  *struct {
				Value    string `json:"value"`
				Failed   bool   `json:"failed"`
				ExitCode int    `json:"exit_code"`
			} `json:"status"`
		} `json:"data"`
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return garbled(a, err)
	}
	router := false
	for _, m := range page.Data {
		if m.Status == nil {
			continue
		}
		router = true
		if m.ID != model && !slices.Contains(m.Aliases, model) {
			continue
		}
		switch {
		case m.Status.Failed:
			return probe.Asleep, fmt.Sprintf("its router could not load %s: exit status %d", model, m.Status.ExitCode)
		case m.Status.Value == "loaded", m.Status.Value == "sleeping":
			return probe.Ready, "ready"
		case m.Status.Value == "unloaded", m.Status.Value == "downloaded":
			return probe.Asleep, model + " is not loaded"
		}
		return probe.Loading, model + " is " + m.Status.Value
	}
	if router {
		return probe.Loading, "its router does not know " + model
	}
	return probe.Ready, "ready"
}

// ollamaStatus reads GET /api/ps: the models in memory, those that are being loaded included.
func ollamaStatus(a answer, model string) (probe.Status, string) {
	if !a.ok() {
		return a.notReady()
	}
	var page struct {
		Models []struct {
			Name string `json:"name"`
		} `json:"models"`
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return garbled(a, err)
	}
	for _, m := range page.Models {
		if strings.EqualFold(ollamaName(m.Name), ollamaName(model)) {
			return probe.Ready, "ready"
		}
	}
	return probe.Asleep, model + " is not loaded"
}

// ollamaName writes out what Ollama leaves out of a model's name.
func ollamaName(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "registry.ollama.ai/"), "library/")
	if !strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		name += ":latest"
	}
	return name
}

// tritonStatus reads POST /v2/repository/index: one entry for each version of each model that the server knows. It is asked
// only when the model is not ready.
func tritonStatus(a answer, model string) (probe.Status, string) {
	if !a.ok() {
		return a.notReady()
	}
	var page []struct {
		Name   string `json:"name"`
		State  string `json:"state"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(a.body, &page); err != nil {
		return garbled(a, err)
	}
	known := false
	for _, m := range page {
		if m.Name != model {
			continue
		}
		known = true
		if m.State == "LOADING" || m.State == "UNLOADING" || m.State == "READY" {
			return probe.Loading, model + " is " + m.State
		}
	}
	if !known {
		return probe.Loading, "its repository has no model " + model
	}
	return probe.Asleep, model + " is not loaded"
}
