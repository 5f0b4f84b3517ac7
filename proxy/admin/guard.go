package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// minToken is how many characters a token has at least: it must not be guessed, and nothing bounds how often that is tried.
const minToken = 16

// maxToken bounds what is read of a token's file.
const maxToken = 4 << 10

// Token reads the token of the admin port. The file's first and last blanks are not of it.
func Token(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the token of the admin port: %w", err)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case len(token) < minToken:
		return "", fmt.Errorf("the token in %s has less than %d characters; make one with: openssl rand -hex 32", file, minToken)
	case len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("the token in %s is no token: it must be at most %d printable characters, without blanks", file, maxToken)
	}
	return token, nil
}

// Guard stands before an admin port. Without a token only this host may ask, by a loopback name: a name of somebody else's DNS that points here is none.
// With one whoever shows it may, from anywhere; the file is read at each request, so that a changed token counts at once. What open says needs none. Either
// way requests that change something must not come from another site's page, and no page may show ours in a frame.
func Guard(tokenFile string, open func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if tokenFile == "" && !loopbackName(r.Host) {
			reply(w, http.StatusForbidden, Problem{"the admin port answers to loopback addresses only"})
			return
		}
		if err := http.NewCrossOriginProtection().Check(r); err != nil {
			reply(w, http.StatusForbidden, Problem{"the admin port takes no commands from pages of other sites"})
			return
		}
		if tokenFile != "" && !open(r) {
			if err := checkToken(tokenFile, r.Header.Get("Authorization")); err != nil {
				h.Set("WWW-Authenticate", `Bearer realm="pilotlight"`)
				reply(w, http.StatusUnauthorized, Problem{err.Error()})
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

var errToken = errors.New("the admin port wants its token, and this is not it: Authorization: Bearer TOKEN (for the command line: PILOTLIGHT_ADMIN_TOKEN, or --admin-token-file)")

func checkToken(file, header string) error {
	want, err := Token(file)
	if err != nil {
		return errors.New("the admin port cannot read its token; pilotlight's log, or admin_token_file, says more")
	}
	scheme, got, _ := strings.Cut(header, " ")
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got))
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return errToken
	}
	return nil
}

// loopbackName says whether a request was sent to a loopback name.
func loopbackName(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
