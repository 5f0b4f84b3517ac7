package admin

import (
	"embed"
	"io/fs"
	"net/http"
	"path"
)

//go:embed dashboard
var files embed.FS

// dashboard serves the page and what belongs to it. What it may load is its own; no other host is asked for anything.
func dashboard(_ *Options, w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	text, err := fs.ReadFile(files, path.Join("dashboard", name))
	if err != nil {
		reply(w, http.StatusNotFound, Problem{"the dashboard has no file of that name"})
		return
	}
	kind := map[string]string{".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".mjs": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}[path.Ext(name)]
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Security-Policy",
		"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
	_, _ = w.Write(text) // the client went away
}
