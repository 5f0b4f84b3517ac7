package jwt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"pilotlight/config"
)

const (
	askTime     = 10 * time.Second // for a set, all in all
	maxRedirect = 3
)

// newClient asks an issuer's server.
func newClient(c *config.JWT) (*http.Client, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}
	if c.CA != "" {
		pool, err := config.LoadAuthorities(c.CA)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: t, Timeout: askTime, CheckRedirect: func(next *http.Request, before []*http.Request) error {
		if len(before) > maxRedirect {
			return errors.New("it redirects again and again")
		}
		if next.URL.Scheme != "https" && before[0].URL.Scheme == "https" {
			return errors.New("it redirects to what is no https")
		}
		return nil
	}}, nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the keys: %w", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for the keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask for the keys: %s answers %s", url, resp.Status)
	}
	return readAll(resp.Body)
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	defer f.Close()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSet+1))
	if err != nil {
		return nil, fmt.Errorf("read the keys: %w", err)
	}
	if len(text) > maxSet {
		return nil, fmt.Errorf("read the keys: there are more than %d bytes", maxSet)
	}
	return text, nil
}
