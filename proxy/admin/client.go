package admin

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

	"pilotlight/router"
)

// ErrNobody says that nothing listens where a pilotlight was asked for.
var ErrNobody = errors.New("nothing answers on the admin port")

// Client asks the admin port of a running pilotlight.
type Client struct {
	Addr string // host:port, or a URL
	// TokenFile holds the token of the admin port. Empty: the token is what the environment has as PILOTLIGHT_ADMIN_TOKEN, if anything.
	TokenFile string
}

// Status asks for the fleet.
func (c Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.ask(ctx, http.MethodGet, "/api/status", &s)
}

// GPUs asks for the node's GPUs.
func (c Client) GPUs(ctx context.Context) (GPUsStatus, error) {
	var s GPUsStatus
	return s, c.ask(ctx, http.MethodGet, "/api/gpus", &s)
}

// Nodes asks for what the edge knows of the agents.
func (c Client) Nodes(ctx context.Context, into any) error {
	return c.ask(ctx, http.MethodGet, "/api/nodes", into)
}

// Route asks how the next request of a model would be decided.
func (c Client) Route(ctx context.Context, model string) (router.Explanation, error) {
	var e router.Explanation
	return e, c.ask(ctx, http.MethodGet, "/debug/route?model="+url.QueryEscape(model), &e)
}

// Plan asks for the plan.
func (c Client) Plan(ctx context.Context, into any) error {
	return c.ask(ctx, http.MethodGet, "/api/plan", into)
}

// WhatIf asks for the plan that another configuration would make.
func (c Client) WhatIf(ctx context.Context, policy []byte, into any) error {
	return c.send(ctx, http.MethodPost, "/api/plan", bytes.NewReader(policy), into)
}

// Move wakes, sleeps or stops a model, and returns its status when that is done.
func (c Client) Move(ctx context.Context, verb, model string) (ModelStatus, error) {
	var s ModelStatus
	return s, c.ask(ctx, http.MethodPost, "/api/"+verb+"/"+url.PathEscape(model), &s)
}

func (c Client) ask(ctx context.Context, method, path string, into any) error {
	return c.send(ctx, method, path, nil, into)
}

func (c Client) send(ctx context.Context, method, path string, body io.Reader, into any) error {
	base := strings.TrimSuffix(c.Addr, "/")
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	r, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.Addr, err)
	}
	token := os.Getenv("PILOTLIGHT_ADMIN_TOKEN")
	if c.TokenFile != "" {
		if token, err = Token(c.TokenFile); err != nil {
			return err
		}
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("%w %s; is pilotlight running there? (--admin says where else): %w", ErrNobody, c.Addr, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		var p Problem
		if err := json.NewDecoder(answer.Body).Decode(&p); err != nil || p.Error == "" {
			return fmt.Errorf("%s %s: %s", method, path, answer.Status)
		}
		return fmt.Errorf("%s", p.Error)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.Addr, err)
	}
	return nil
}
