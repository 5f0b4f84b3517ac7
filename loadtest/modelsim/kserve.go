package modelsim

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// kserve adds KServe's v2 protocol, as Triton speaks it.
func (s *server) kserve(mux *http.ServeMux) {
	ready := endpoint(bareRefusal, func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		if model := r.PathValue("model"); model != "" {
			if err := s.knows(model); err != nil {
				return nil, err
			}
		}
		return nil, s.engine.health()
	})
	mux.Handle("GET /v2/health/ready", ready)
	mux.Handle("GET /v2/models/{model}/ready", ready)
	mux.Handle("POST /v2/models/{model}/infer", endpoint(bareRefusal, s.infer))
}

// bareRefusal says no as Triton and Ollama do.
func bareRefusal(r refusal) any { return object{"error": r.message} }

// infer gives each input back as an output, as Triton's identity backend does.
func (s *server) infer(_ http.ResponseWriter, r *http.Request, body []byte) (any, error) {
	var in struct {
		ID     string
		Inputs []struct {
			Shape    []int64
			Datatype string
			Data     json.RawMessage
		}
	}
	model := r.PathValue("model")
	if err := s.knows(model); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &in); err != nil || len(in.Inputs) == 0 {
		return nil, &refusal{http.StatusBadRequest, "failed to parse the request JSON buffer: it has no inputs"}
	}
	if err := s.pool(r, countTokens(string(body))); err != nil {
		return nil, err
	}
	outputs := make([]object, len(in.Inputs))
	for i, input := range in.Inputs {
		outputs[i] = object{"name": "OUTPUT" + strconv.Itoa(i), "shape": input.Shape, "datatype": input.Datatype, "data": input.Data}
	}
	return object{"id": in.ID, "model_name": model, "model_version": "1", "outputs": outputs}, nil
}
