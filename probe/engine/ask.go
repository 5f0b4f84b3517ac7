package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"pilotlight/probe"
)

const (
	maxBody = 1 << 20 // of an answer; what comes after is not read
	maxSaid = 200     // bytes of an answer that are kept for people
)

// answer is what a server gave to one request.
type answer struct {
	request string // "GET /health"
	code    int
	body    []byte
	err     error // none came
}

// ask sends one request without a body.
func ask(ctx context.Context, client *http.Client, method, base, path string) answer {
	a := answer{request: method + " " + path}
	req, err := http.NewRequestWithContext(ctx, method, base+path, nil)
	if err != nil {
		a.err = err
		return a
	}
	resp, err := client.Do(req)
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close() //nolint:errcheck // nothing can be lost by it
	a.code = resp.StatusCode
	a.body, a.err = io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return a
}

func (a answer) ok() bool { return a.err == nil && a.code/100 == 2 }

// notReady is the status of a server that gave an answer other than ok.
func (a answer) notReady() (probe.Status, string) {
	if a.err != nil {
		return probe.Away, a.request + ": " + cause(a.err)
	}
	said := strings.Join(strings.Fields(string(a.body[:min(len(a.body), maxSaid)])), " ")
	return probe.Loading, fmt.Sprintf("%s answered %d %s", a.request, a.code, said)
}

// cause is the innermost error: those around it name ephemeral ports, and would look like a change at each attempt.
func cause(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}
