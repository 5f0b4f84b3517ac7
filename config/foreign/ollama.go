package foreign

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pilotlight/config"
)

// maxAnswer is the longest answer of Ollama that is read.
const maxAnswer = 16 << 20

// Ollama makes a configuration of the models that a running Ollama has on its disk. Base is its address, as in
// http://127.0.0.1:11434.
func Ollama(ctx context.Context, base string) (*Import, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not an address of Ollama; write it like http://127.0.0.1:11434", base)
	}
	var has, runs ollamaModels
	if err := ask(ctx, u.JoinPath("api/tags"), &has); err != nil {
		return nil, err
	}
	if err := ask(ctx, u.JoinPath("api/ps"), &runs); err != nil {
		return nil, err
	}
	if len(has.Models) == 0 {
		return nil, fmt.Errorf("the Ollama at %s has no models; pull one with: ollama pull NAME", base)
	}
	slices.SortFunc(has.Models, func(a, b ollamaModel) int { return strings.Compare(a.Name, b.Name) })
	d := newDraft()
	models := d.root.below("models")
	for _, m := range has.Models {
		to := models.below(m.Name)
		if short, latest := strings.CutSuffix(m.Name, ":latest"); latest {
			to.list("aliases", []string{short})
		}
		b := to.item("backends")
		host := u.Host
		if u.Port() == "" {
			host += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
		}
		b.set("address", host)
		if u.Scheme == "https" {
			b.below("tls")
		}
		b.set("engine", string(config.Ollama))
		b.set("sleep", string(config.SleepEngine))
		at := slices.IndexFunc(runs.Models, func(r ollamaModel) bool { return r.Name == m.Name })
		if at >= 0 && runs.Models[at].VRAM > 0 {
			b.set("memory", roundUp(runs.Models[at].VRAM))
			continue
		}
		b.set("memory", roundUp(m.Size+m.Size/5))
		b.note("a guess, from the size of the weights; load it and import again, and it is what Ollama measures")
	}
	return d.finish("Made by pilotlight import ollama --url " + base + "\nCheck it with: pilotlight check FILE\n" +
		"Ollama unloads models by itself too: start it with OLLAMA_KEEP_ALIVE=-1, so that pilotlight alone decides.")
}

// ollamaModels is what Ollama says of its models.
type ollamaModels struct {
	Models []ollamaModel `json:"models"`
}

type ollamaModel struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	VRAM int64  `json:"size_vram"`
}

// ask reads what is at u.
func ask(ctx context.Context, u *url.URL, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", u, err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("ask Ollama for its models: %w; does it run there?", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Ollama for its models: %s answers %s; is it an Ollama?", u, answer.Status)
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(into); err != nil {
		return errors.Join(fmt.Errorf("ask Ollama for its models: %s does not answer as Ollama does", u), err)
	}
	return nil
}
