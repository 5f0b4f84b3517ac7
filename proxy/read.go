package proxy

import (
	"bytes"
	"fmt"
	"net/url"

	"github.com/valyala/fasthttp"

	"pilotlight/router"
)

// maxName is the longest name of a model, in bytes: names are echoed in refusals and logs.
const maxName = 512

// maxScratch is how much room for renamed bodies an ask keeps for its next request.
const maxScratch = 256 << 10

// modelHeader is the header that names the model where the path does not.
const modelHeader = "X-Pilotlight-Model"

// ask is what the edge read of a request; everything else of it passes through untouched. All of it but model borrows
// from the request and is valid until the handler returns. An ask may be used again for the next request.
type ask struct {
	model  string // as the client named it
	api    api    // whose error form the client reads
	stream bool   // it asked for server-sent events

	came    payload // as the client sent it, /upstream/{m} cut off
	sent    payload // as it is sent on
	scratch payload // room for a renamed one, kept for the next request
	inPath  mention // of came.target
	inQuery mention // of came.target
	inBody  mention // of came.body
	prompt  span    // of came.body
	form    form
}

// payload is the part of a request that may name its model.
type payload struct{ target, body []byte }

// mention is a place that names a model.
type mention struct {
	name []byte // decoded; empty: no model is named there
	at   span   // as it is written
}

// span is where something stands in a text. The zero span is nowhere.
type span struct{ from, to int }

func (s span) of(text []byte) []byte { return text[s.from:s.to] }

// target is the path and query that are sent on.
func (a *ask) target() []byte { return a.sent.target }

// body is the body that is sent on.
func (a *ask) body() []byte { return a.sent.body }

// read finds out what the request asks for. Where several places name a model the first of these counts: /upstream/{m},
// another path, the header, the body, the query. The others are the backend's business, and so is a body that need not
// be understood because the path or the header names the model. What it finds borrows from the intake.
func (in *intake) read() *router.Refusal {
	dst, head := &in.ask, &in.head
	last, scratch := dst.model, dst.scratch
	if cap(scratch.body) > maxScratch {
		scratch.body = nil
	}
	*dst = ask{scratch: scratch}
	upstream, target := cutUpstream(originForm(in.request.Header.RequestURI()))
	dst.came = payload{target, in.request.Body()}
	dst.sent = dst.came
	path, _, _ := bytes.Cut(target, []byte("?"))
	dst.api = apiOf(path)
	if head.anthropic && dst.api == openAI {
		dst.api = anthropic
	}
	dst.inPath = inPath(path)
	dst.inQuery = inQuery(target, len(path))
	dst.stream = dst.api == kserve && bytes.HasSuffix(path, []byte("/generate_stream"))

	name := first(upstream, dst.inPath.name, head.model)
	if len(name) == 0 || dst.api.streams() {
		if no := dst.readBody(head); no != nil && len(name) == 0 {
			return no
		}
	}
	name = first(name, dst.inBody.name, dst.inQuery.name)
	switch {
	case len(name) == 0:
		return noModel()
	case len(name) > maxName:
		return badRequest(fasthttp.StatusBadRequest, "the model's name is longer than %d bytes", maxName)
	case string(name) == last:
		dst.model = last // most requests on a connection ask for the same model
	default:
		dst.model = string(name)
	}
	return nil
}

// first is the first name that is one.
func first(names ...[]byte) []byte {
	for _, name := range names {
		if len(name) > 0 {
			return name
		}
	}
	return nil
}

// rename makes the request name the model as its backend knows it, in every place that names it as the client did. It
// starts from what the client sent, however often it is called.
func (a *ask) rename(name string) {
	a.sent = a.came
	if name == a.model {
		return
	}
	path, query, body := a.names(a.inPath), a.names(a.inQuery), a.names(a.inBody)
	if path || query {
		t, from := a.scratch.target[:0], 0
		if path {
			t, from = splice(t, a.came.target, from, a.inPath.at, url.PathEscape(name))
		}
		if query {
			t, from = splice(t, a.came.target, from, a.inQuery.at, url.QueryEscape(name))
		}
		a.scratch.target = append(t, a.came.target[from:]...)
		a.sent.target = a.scratch.target
	}
	if body {
		if a.form == object {
			name = string(appendJSON(nil, name))
		}
		b, from := splice(a.scratch.body[:0], a.came.body, 0, a.inBody.at, name)
		a.scratch.body = append(b, a.came.body[from:]...)
		a.sent.body = a.scratch.body
	}
}

// names says whether a place names the model as the client did.
func (a *ask) names(m mention) bool { return string(m.name) == a.model }

// splice appends src from a position up to a span, and what stands there instead. It says where src goes on.
func splice(dst, src []byte, from int, at span, with string) ([]byte, int) {
	return append(append(dst, src[from:at.from]...), with...), at.to
}

// form is how a body is read.
type form uint8

const (
	opaque   form = iota // not at all
	object               // a JSON object
	fieldset             // multipart/form-data
)

// formOf says how to read a body. Clients that forget the content type, curl above all, often mean JSON.
func formOf(contentType, body []byte) form {
	media, _, _ := bytes.Cut(contentType, []byte(";"))
	media = bytes.TrimSpace(media)
	switch {
	case len(body) == 0:
		return opaque
	case is(media, "application/json"), len(media) > 5 && is(media[len(media)-5:], "+json"):
		return object
	case is(media, "multipart/form-data"):
		return fieldset
	case len(media) == 0, is(media, "text/plain"), is(media, "application/x-www-form-urlencoded"):
		if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
			return object
		}
	}
	return opaque
}

// readBody finds the model and stream in the body.
func (a *ask) readBody(head *head) *router.Refusal {
	form := formOf(head.contentType, a.came.body)
	if form == opaque {
		return nil
	}
	if head.encoded {
		return badRequest(fasthttp.StatusUnsupportedMediaType, "the body has a Content-Encoding, so the model cannot be read from it; "+
			"send the body as it is, or name the model in the path (/upstream/MODEL/...) or in the header %s", modelHeader)
	}
	var found fields
	var err error
	if form == object {
		found, err = scan(a.came.body)
	} else {
		found, err = scanForm(a.came.body, string(head.contentType))
	}
	if err == nil {
		a.inBody, err = found.mention(a.came.body, form, a.api)
	}
	if err != nil {
		return badRequest(fasthttp.StatusBadRequest, "%v", err)
	}
	a.form, a.prompt = form, found.prompt
	a.stream = a.stream || found.stream && a.api.streams()
	return nil
}

// check reads the whole of a JSON body, which read only skims. It is for requests that would wake a backend just to be
// told that their body is no good.
func (a *ask) check() *router.Refusal {
	if a.form != object {
		return nil
	}
	if err := validJSON(a.came.body); err != nil {
		return badRequest(fasthttp.StatusBadRequest, "%v", err)
	}
	return nil
}

func noModel() *router.Refusal {
	return &router.Refusal{Status: fasthttp.StatusBadRequest, Code: router.NoModel, Reason: `the request names no model; name one as "model" ` +
		"in a JSON body or a multipart form, in the path (/upstream/MODEL/...), in the header " + modelHeader + " or as ?model="}
}

// badRequest is a refusal that no other request of the same content can escape.
func badRequest(status int, format string, args ...any) *router.Refusal {
	return &router.Refusal{Status: status, Code: router.BadRequest, Reason: fmt.Sprintf(format, args...)}
}
