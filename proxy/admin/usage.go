package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pilotlight/proxy/ledger"
)

// usage answers with what the edge wrote down, as entries that others can be added to.
func (o *Options) usage(w http.ResponseWriter, r *http.Request) {
	q, err := queryOf(r.URL.Query())
	switch {
	case o.Ledger == nil:
		reply(w, http.StatusNotFound, Problem{"no ledger is kept here; ledger.keep is false"})
		return
	case err != nil:
		reply(w, http.StatusBadRequest, Problem{err.Error()})
		return
	}
	book, err := o.Ledger.Book(r.Context(), q)
	if err != nil {
		reply(w, http.StatusInternalServerError, Problem{err.Error()})
		return
	}
	reply(w, http.StatusOK, book)
}

// queryOf reads by=tenant,model&since=TIME&until=TIME. Times are those of RFC 3339; without since it is the last day.
func queryOf(v url.Values) (q ledger.Query, err error) {
	if q.By, err = ledger.ParseBy(v.Get("by")); err != nil {
		return q, err
	}
	q.Since = time.Now().Add(-24 * time.Hour)
	for name, into := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if text := v.Get(name); text != "" {
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				return q, fmt.Errorf("%s=%s is not a time; write one like 2026-11-26T00:00:00Z", name, text)
			}
		}
	}
	return q, nil
}

// Usage asks for what the edge wrote down.
func (c Client) Usage(ctx context.Context, q ledger.Query) (ledger.Book, error) {
	var by []string
	for _, b := range q.By {
		by = append(by, string(b))
	}
	v := url.Values{"by": {strings.Join(by, ",")}, "since": {q.Since.UTC().Format(time.RFC3339)}}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(time.RFC3339))
	}
	var book ledger.Book
	return book, c.ask(ctx, http.MethodGet, "/api/usage?"+v.Encode(), &book)
}
