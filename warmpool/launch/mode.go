package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"pilotlight/config"
	"pilotlight/probe"
	"pilotlight/probe/engine"
	"pilotlight/router"
	"pilotlight/warmpool"
)

const (
	maxAnswer = 1 << 20 // of an answer that is read
	maxSaid   = 300     // of one that is repeated in an error
)

// mode is the way in which the engine of a server that is up is woken and put to sleep. It knows nothing of processes.
type mode struct {
	kind   config.Engine
	model  string
	sleeps config.Sleep
	level  int          // of vLLM's sleep
	hooks  config.Hooks // empty where there are none
	onHost bool         // the configuration says that a sleeping backend takes host memory
	engine engine.Engine
	client *http.Client
}

func newMode(spec Spec, e engine.Engine, client *http.Client) mode {
	b := spec.Backend
	m := mode{
		kind: b.Engine, model: spec.ServedAs, sleeps: b.Sleep, level: max(b.SleepLevel, 1),
		onHost: b.HostMemory > 0, engine: e, client: client,
	}
	if b.Hooks != nil {
		m.hooks = *b.Hooks
	}
	return m
}

// byHook reports whether it is hooks that move the engine.
func (m mode) byHook() bool {
	return m.sleeps != config.SleepEngine && m.sleeps != config.SleepCheckpoint && m.hooks.Wake != ""
}

// canWake reports whether there is a way to rouse the engine. Engines that start without a model need it even where the
// backend never sleeps.
func (m mode) canWake() bool {
	switch m.kind {
	case config.VLLM, config.SGLang, config.LlamaCPP, config.Ollama, config.Triton:
		return true
	case config.TGI, config.HTTP:
	}
	return m.byHook()
}

func (m mode) canSleep() bool {
	switch m.sleeps {
	case config.SleepEngine:
		return m.canWake()
	case config.SleepHooks:
		return m.byHook() && m.hooks.Sleep != ""
	case config.SleepCheckpoint:
		return true
	case config.SleepNone:
	}
	return false
}

// says reports whether the engine says that it sleeps when this mode puts it to sleep.
func (m mode) says() bool {
	return !m.byHook() && m.sleeps != config.SleepCheckpoint && m.engine.SaysAsleep()
}

// tier is where the weights are while the engine sleeps, as far as can be known without asking it.
func (m mode) tier() router.Tier {
	onHost := m.kind == config.VLLM && m.level == 1 || m.kind == config.SGLang
	if m.byHook() {
		onHost = m.onHost
	}
	onHost = onHost || m.sleeps == config.SleepCheckpoint
	if onHost {
		return router.OnHost
	}
	return router.OnDisk
}

// wake has the engine take back its memory, and the weights from where they are.
func (m mode) wake(ctx context.Context, addr string, from router.Tier) error {
	if m.byHook() {
		return m.hook(ctx, m.hooks.Wake)
	}
	err := m.wakeEngine(ctx, addr, from)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil // it is another by now than the one that went to sleep, and starts
	}
	return err
}

func (m mode) wakeEngine(ctx context.Context, addr string, from router.Tier) error {
	switch m.kind {
	case config.VLLM:
		if from == router.OnHost {
			return m.post(ctx, addr, "/wake_up", nil)
		}
		// The weights were thrown away, so they come first, then what is computed from them.
		return inOrder(
			func() error { return m.post(ctx, addr, "/wake_up?tags=weights", nil) },
			func() error { return m.post(ctx, addr, "/collective_rpc", object{"method": "reload_weights"}) },
			func() error { return m.post(ctx, addr, "/wake_up?tags=kv_cache", nil) },
			func() error { return m.post(ctx, addr, "/reset_prefix_cache", nil) },
		)
	case config.SGLang:
		return m.wakeSGLang(ctx, addr, from)
	case config.LlamaCPP:
		return m.wakeLlama(ctx, addr)
	case config.Ollama:
		return m.wakeOllama(ctx, addr)
	case config.Triton:
		return m.post(ctx, addr, m.triton("load"), object{})
	case config.TGI, config.HTTP:
	}
	panic("BUG: no way to wake " + string(m.kind))
}

// sleep has the engine give its GPU memory back, and says where the weights are now.
func (m mode) sleep(ctx context.Context, addr string) (router.Tier, error) {
	tier := m.tier()
	if m.byHook() {
		return tier, m.hook(ctx, m.hooks.Sleep)
	}
	switch m.kind {
	case config.VLLM:
		return tier, m.post(ctx, addr, fmt.Sprintf("/sleep?level=%d", m.level), nil)
	case config.SGLang:
		return m.sleepSGLang(ctx, addr)
	case config.LlamaCPP:
		return tier, m.post(ctx, addr, "/models/unload", object{"model": m.model})
	case config.Ollama:
		return tier, m.post(ctx, addr, "/api/generate", object{"model": m.model, "keep_alive": 0, "stream": false})
	case config.Triton:
		return tier, m.post(ctx, addr, m.triton("unload"), object{})
	case config.TGI, config.HTTP:
	}
	panic("BUG: no way to put " + string(m.kind) + " to sleep")
}

func (m mode) triton(verb string) string {
	return "/v2/repository/models/" + url.PathEscape(m.model) + "/" + verb
}

// wakeLlama has a router load the model. It answers before the load is over, so what it says of the model counts, and not
// what it says to the request: somebody else may have asked for the model, too.
func (m mode) wakeLlama(ctx context.Context, addr string) error {
	refused := m.post(ctx, addr, "/models/load", object{"model": m.model})
	for {
		status, said := m.engine.Status(ctx, m.client, addr)
		switch {
		case status == probe.Ready:
			return nil
		case status == probe.Asleep && refused != nil:
			return refused
		case status == probe.Asleep:
			return errors.New(said)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(nearPause):
		}
	}
}

// wakeOllama has Ollama load the model, to stay. An embedding model it loads only for an embedding.
func (m mode) wakeOllama(ctx context.Context, addr string) error {
	err := m.post(ctx, addr, "/api/generate", object{"model": m.model, "keep_alive": -1, "stream": false})
	if err != nil && strings.Contains(err.Error(), "does not support generate") {
		return m.post(ctx, addr, "/api/embed", object{"model": m.model, "keep_alive": -1, "input": ""})
	}
	return err
}

// sglangInfo is what SGLang says of its own flags.
type sglangInfo struct {
	ModelPath   string `json:"model_path"`
	MemorySaver bool   `json:"enable_memory_saver"`
	WeightsKept bool   `json:"enable_weights_cpu_backup"`
}

func (m mode) askSGLang(ctx context.Context, addr string) (info sglangInfo, err error) {
	body, err := m.call(ctx, http.MethodGet, "http://"+addr+"/get_server_info", nil, "")
	if err != nil { // its later name
		body, err = m.call(ctx, http.MethodGet, "http://"+addr+"/server_info", nil, "")
	}
	if err == nil {
		err = json.Unmarshal(body, &info)
	}
	if err != nil {
		return info, fmt.Errorf("ask SGLang for its flags: %w", err)
	}
	return info, nil
}

// sleepSGLang releases the memory. Without its flag SGLang answers well and releases nothing, so it is asked first; another
// flag decides whether the weights are kept in host memory.
func (m mode) sleepSGLang(ctx context.Context, addr string) (router.Tier, error) {
	info, err := m.askSGLang(ctx, addr)
	if err != nil {
		return router.OnGPU, err
	}
	if !info.MemorySaver {
		return router.OnGPU, errors.New("SGLang can release its memory only if it was started with --enable-memory-saver")
	}
	tier := router.OnDisk
	if info.WeightsKept {
		tier = router.OnHost
	}
	return tier, m.post(ctx, addr, "/release_memory_occupation", object{})
}

// wakeSGLang resumes the memory. Where the weights were not kept, there is nothing of worth in it until they are loaded again.
func (m mode) wakeSGLang(ctx context.Context, addr string, from router.Tier) error {
	if err := m.post(ctx, addr, "/resume_memory_occupation", object{}); err != nil || from == router.OnHost {
		return err
	}
	info, err := m.askSGLang(ctx, addr)
	if err != nil {
		return err
	}
	return m.post(ctx, addr, "/update_weights_from_disk", object{"model_path": info.ModelPath})
}

// hook sends one of the configuration's requests, "METHOD URL".
func (m mode) hook(ctx context.Context, hook string) error {
	method, target, ok := strings.Cut(hook, " ")
	if !ok {
		return fmt.Errorf("hook %q is not METHOD URL", hook)
	}
	bearer := ""
	if m.hooks.BearerFile != "" {
		token, err := os.ReadFile(m.hooks.BearerFile)
		if err != nil {
			return fmt.Errorf("read the hooks' bearer token: %w", err)
		}
		bearer = strings.TrimSpace(string(token))
	}
	_, err := m.call(ctx, method, strings.TrimSpace(target), nil, bearer)
	return err
}

// object is a JSON object.
type object map[string]any

// post sends one request to the engine. A nil body sends none.
func (m mode) post(ctx context.Context, addr, path string, body object) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			panic("BUG: a request has no JSON: " + err.Error())
		}
	}
	_, err := m.call(ctx, http.MethodPost, "http://"+addr+path, data, "")
	return err
}

// call sends one request and returns the body of its answer, which must be 2xx.
func (m mode) call(ctx context.Context, method, target string, body []byte, bearer string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, target, err)
	}
	if resp.StatusCode/100 != 2 {
		said := strings.Join(strings.Fields(string(answer[:min(len(answer), maxSaid)])), " ")
		err := fmt.Errorf("%s %s answered %d %s", method, target, resp.StatusCode, said)
		if outOfMemory.Match(answer) {
			err = fmt.Errorf("%w: %w", warmpool.ErrOutOfMemory, err)
		}
		return nil, err
	}
	return answer, nil
}

// inOrder does one thing after the other, until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
