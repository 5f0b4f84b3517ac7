package modelsim

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// kserve adds KServe's v2 protocol, as Triton speaks it.
func (s *server) kserve(mux *http.ServeMux) {
	mux.HandleFunc("GET /v2/health/live", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/health/ready", s.kserveReady)
	mux.HandleFunc("GET /v2/models/{model}/ready", s.kserveReady)
	mux.HandleFunc("POST /v2/models/{model}/infer", s.infer)
}

func kserveRefusal(r refusal) any { return object{"error": r.message} }

func (s *server) kserveReady(w http.ResponseWriter, r *http.Request) {
	if model := r.PathValue("model"); model != "" {
		if err := s.knows(model); err != nil {
			refuse(w, kserveRefusal, err)
			return
		}
	}
	if s.engine.isDead() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// infer gives each input back as an output, as Triton's identity backend does.
func (s *server) infer(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r, kserveRefusal)
	if !ok {
		return
	}
	var in struct {
		ID     string
		Inputs []struct {
			Shape    []int64         `json:"shape"`
			Datatype string          `json:"datatype"`
			Data     json.RawMessage `json:"data"`
		}
	}
	model := r.PathValue("model")
	err := s.knows(model)
	if err == nil && (json.Unmarshal(body, &in) != nil || len(in.Inputs) == 0) {
		err = &refusal{http.StatusBadRequest, "failed to parse the request JSON buffer: want inputs"}
	}
	if err != nil {
		refuse(w, kserveRefusal, err)
		return
	}
	if !s.pool(w, r, countTokens(string(body)), kserveRefusal) {
		return
	}
	outputs := make([]object, len(in.Inputs))
	for i, input := range in.Inputs {
		outputs[i] = object{"name": "OUTPUT" + strconv.Itoa(i), "shape": input.Shape, "datatype": input.Datatype, "data": input.Data}
	}
	reply(w, http.StatusOK, object{"id": in.ID, "model_name": model, "model_version": "1", "outputs": outputs})
}
