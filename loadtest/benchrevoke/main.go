// Benchrevoke measures how soon a key that was revoked is refused on each of several edges, which have many: with the keys in a file that all of them read,
// and in a real Consul. `make bench-revoke` runs it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"pilotlight/loadtest/edge"
	"pilotlight/loadtest/realconsul"
	"pilotlight/proxy/keys"
)

type options struct{ keys, edges, tries int }

func main() {
	var o options
	flag.IntVar(&o.keys, "keys", 100_000, "keys that there are")
	flag.IntVar(&o.edges, "edges", 2, "edges")
	flag.IntVar(&o.tries, "tries", 10, "keys that are revoked, one after the other")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// ring is the keys, as they are sent and as they are kept.
type ring struct {
	secrets []string
	lines   [][]byte
}

func newRing(n int) (r ring, err error) {
	for i := range n {
		secret, k, err := keys.New(keys.Key{ID: strconv.Itoa(i), Tenant: "t", Models: []string{"llama-*"}, Concurrency: 8})
		if err != nil {
			return r, err
		}
		line, err := json.Marshal(k)
		if err != nil {
			return r, err
		}
		r.secrets, r.lines = append(r.secrets, secret), append(r.lines, line)
	}
	return r, nil
}

func measure(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "benchrevoke")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := edge.Build(ctx, dir)
	if err != nil {
		return err
	}
	r, err := newRing(o.keys)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "keys.jsonl")
	if err := os.WriteFile(file, append(bytes.Join(r.lines, []byte("\n")), '\n'), 0o600); err != nil {
		return err
	}
	const model = "models: {m: {backends: [{address: \"127.0.0.1:1\", gpus: 0}]}}\n"
	err = o.revoke(ctx, "in a file", binary, fmt.Sprintf("keys: {file: %q}\n", file)+model, r, func(i int) error {
		if err := os.WriteFile(file+".new", append(bytes.Join(r.lines[i+1:], []byte("\n")), '\n'), 0o600); err != nil {
			return err
		}
		return os.Rename(file+".new", file) // as pilotlight keys revoke does
	})
	if err != nil {
		return err
	}
	consul, err := realconsul.Start(ctx, realconsul.Options{Dir: filepath.Join(dir, "consul")})
	if err != nil {
		return err
	}
	defer consul.Close()
	kv := consul.API(0).KV()
	if err := fill(kv, r.lines); err != nil {
		return err
	}
	return o.revoke(ctx, "in Consul", binary, fmt.Sprintf("keys: {consul: true}\nconsul: {address: %q}\n", consul.Servers[0].Addr)+model, r, func(i int) error {
		_, err := kv.Delete("pilotlight/keys/"+strconv.Itoa(i), nil)
		return err
	})
}

// fill puts keys into Consul.
func fill(kv *api.KV, lines [][]byte) error {
	first := 0
	for some := range slices.Chunk(lines, 64) {
		var all api.KVTxnOps
		for i, line := range some {
			all = append(all, &api.KVTxnOp{Verb: api.KVSet, Key: "pilotlight/keys/" + strconv.Itoa(first+i), Value: line})
		}
		if done, _, _, err := kv.Txn(all, nil); err != nil || !done {
			return fmt.Errorf("put keys into Consul: %t, %w", done, err)
		}
		first += len(some)
	}
	return nil
}

// revoke revokes one key after the other and prints how long it took until no edge served it.
func (o options) revoke(ctx context.Context, where, binary, config string, r ring, away func(i int) error) error {
	dir, err := os.MkdirTemp("", "benchrevoke")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var edges []*edge.Edge
	for i := range o.edges {
		own := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(own, 0o700); err != nil {
			return err
		}
		e, err := edge.Start(ctx, binary, own, config)
		if err != nil {
			return err
		}
		defer e.Stop()
		edges = append(edges, e)
		if _, err := await(ctx, e, r.secrets[len(r.secrets)-1], http.StatusOK); err != nil {
			return err
		}
	}
	var all []time.Duration
	for i := range o.tries {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if err := away(i); err != nil {
			return err
		}
		began := time.Now()
		for _, e := range edges {
			at, err := await(ctx, e, r.secrets[i], http.StatusUnauthorized)
			if err != nil {
				return err
			}
			all = append(all, at.Sub(began))
		}
	}
	slices.Sort(all)
	fmt.Printf("%d keys %s, %d edges, %d revoked: refused after %s in the middle, %s at most\n", o.keys, where, o.edges, o.tries,
		all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
	return nil
}

// await asks again and again until the answer has that status.
func await(ctx context.Context, e *edge.Edge, secret string, status int) (time.Time, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.TrimPrefix(e.Addr, "http://")+"/v1/models", nil)
		if err != nil {
			return time.Time{}, err
		}
		req.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return time.Time{}, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == status {
			return time.Now(), nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return time.Time{}, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
