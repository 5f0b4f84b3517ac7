package main_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layout is every package, and what it may import of ours: config ← probe ← router ← warmpool ← main. "." is main.
func layout() map[string][]string {
	return map[string][]string{
		"config":                    {},
		"config/foreign":            {"config"},
		"probe":                     {"config", "probe/proc"},
		"probe/proc":                {},
		"probe/engine":              {"config", "probe"},
		"probe/nvml":                {"config", "probe", "probe/proc"},
		"probe/meter":               {"probe"}, // pure: what was measured and who was in flight go in, shares come out
		"router":                    {"config", "probe"},
		"router/consul":             {"config", "router"},
		"warmpool":                  {"config", "probe", "router"},
		"warmpool/launch":           {"config", "probe", "probe/engine", "probe/proc", "router", "warmpool"},
		"warmpool/advise":           {"config"},
		"warmpool/agent":            {"config", "probe", "probe/meter", "router"},
		"warmpool/forecast":         {},
		"warmpool/policy":           {"warmpool/forecast"}, // it decides live and in virtual time alike
		"warmpool/simulate":         {"warmpool/policy"},
		"warmpool/simulate/report":  {"warmpool/simulate"},
		"warmpool/planner":          {"router", "warmpool/policy"},
		"warmpool/live":             {"config", "router", "warmpool/forecast", "warmpool/planner", "warmpool/policy"},
		"proxy/keys":                {"router"},
		"proxy/jwt":                 {"config", "router", "proxy/keys"},
		"proxy":                     {"config", "probe", "probe/meter", "router", "proxy/keys"}, // never warmpool: an edge owns no lives
		"proxy/admin":               {"config", "probe", "router", "router/consul", "proxy", "proxy/jwt", "proxy/ledger"},
		"proxy/ledger":              {"proxy", "router"},
		"proxy/trace":               {"config", "proxy", "router"},
		"loadtest":                  {"loadtest/trace"}, // it sees servers as clients do
		"loadtest/trace":            {},
		"loadtest/scenario":         {"loadtest", "loadtest/report", "probe/proc"}, // it sees pilotlight from outside
		"loadtest/report":           {"loadtest"},
		"loadtest/modelsim":         {}, // it knows nothing of us, as no model server does
		"loadtest/grpcsim":          {},
		"loadtest/grpcsim/cmd":      {"loadtest/grpcsim"},
		"loadtest/otlpsim":          {},
		"loadtest/realconsul":       {"probe/proc"},
		"loadtest/chaosconsul":      {"probe/proc", "loadtest/realconsul"},
		"loadtest/benchconsul":      {"config", "router", "router/consul", "loadtest/realconsul"},
		"loadtest/edge":             {}, // it sees pilotlight from outside
		"loadtest/demofleet":        {"probe/proc"},
		"loadtest/benchwake":        {"loadtest/edge"},
		"loadtest/benchattribution": {"loadtest/modelsim", "probe/meter"},
		"loadtest/benchrouting":     {"config", "probe", "router", "loadtest/modelsim", "loadtest/trace"},
		"loadtest/benchtrace":       {"loadtest/edge"},
		"loadtest/attributioncheck": {"loadtest/edge"},
		"loadtest/tracecheck":       {"loadtest/edge", "probe/proc"},
		"loadtest/benchleave":       {"loadtest/edge"},
		"loadtest/benchproxy":       {"loadtest/edge"},
		"loadtest/benchrevoke":      {"loadtest/edge", "loadtest/realconsul", "proxy/keys"},
		"loadtest/soakedge":         {"loadtest/edge", "probe/proc"},
		"deploy/tinymodel":          {},
		"deploy/tinymodel/cmd":      {"deploy/tinymodel"},
		".": {
			"config", "config/foreign", "probe", "probe/engine", "probe/meter", "probe/nvml", "router", "router/consul", "warmpool", "warmpool/agent", "warmpool/launch", "proxy", "proxy/admin", "proxy/jwt", "proxy/keys", "warmpool/advise", "proxy/ledger", "proxy/trace",
			"loadtest", "loadtest/modelsim", "loadtest/report", "loadtest/scenario", "loadtest/trace",
			"warmpool/live", "warmpool/planner", "warmpool/policy", "warmpool/simulate", "warmpool/simulate/report",
		},
	}
}

// fences is every module that is not ours, and the packages that may import it outside of tests. A new dependency belongs
// here, and in as few packages as possible.
func fences() map[string][]string {
	return map[string][]string{
		"github.com/HdrHistogram/hdrhistogram-go": {"loadtest"},
		"github.com/NVIDIA/go-nvml":               {"probe/nvml"},
		"github.com/Shopify/toxiproxy/v2":         {}, // tests only
		"github.com/alecthomas/kong":              {".", "loadtest/modelsim"},
		"github.com/bufbuild/protocompile":        {"loadtest/grpcsim"},
		"github.com/go-jose/go-jose/v4":           {"proxy/jwt"},
		"github.com/google/shlex":                 {"config/foreign"},
		"github.com/hashicorp/consul/api":         {"loadtest/benchconsul", "loadtest/benchrevoke", "loadtest/chaosconsul", "loadtest/realconsul", "router/consul"},
		"github.com/hashicorp/golang-lru/v2":      {"proxy/jwt", "router"},
		"github.com/invopop/jsonschema":           {}, // tests only
		"github.com/prometheus/client_golang":     {".", "loadtest/modelsim", "proxy", "proxy/admin", "proxy/jwt", "proxy/trace", "router/consul"},
		"github.com/robfig/cron/v3":               {"config"},
		"github.com/rogpeppe/go-internal":         {}, // tests only
		"github.com/rs/zerolog":                   {}, // tests only
		"github.com/valyala/fasthttp":             {"proxy"},
		"go.opentelemetry.io/otel":                {"proxy/trace"},
		"go.opentelemetry.io/proto/otlp":          {"loadtest/otlpsim"},
		"go.yaml.in/yaml/v4":                      {"config", "config/foreign", "loadtest/scenario"},
		"google.golang.org/grpc":                  {"loadtest/grpcsim", "loadtest/otlpsim", "proxy/trace", "warmpool/agent"},
		"gonum.org/v1/plot":                       {"warmpool/simulate/report", "warmpool/advise"},
		"google.golang.org/protobuf":              {"loadtest/grpcsim", "loadtest/otlpsim"},
		"modernc.org/sqlite":                      {"proxy/ledger"},
		"golang.org/x/sync":                       {".", "loadtest/modelsim", "router/consul"},
		"golang.org/x/sys":                        {"loadtest/benchproxy", "proxy", "warmpool/launch"},
		"golang.org/x/time":                       {"router/consul"},
	}
}

// http2Files are the files of the edge that may import net/http: for HTTP/2, which fasthttp does not have.
func http2Files() []string { return []string{"grpc.go", "http2.go", "stream.go"} }

// bareSleeps are the functions of tests that sleep outside the function literal of a synctest bubble, and why they may.
func bareSleeps() map[string]string {
	return map[string]string{
		"config/watch_test.go: pass":                                        "called in bubbles only",
		"config/watch_test.go: TestAFileThatIsStillBeingWrittenIsLeftAlone": "watch makes the bubble",
		"harness_test.go: eventually":                                       "polls real processes",
		"loadtest/report/report_test.go: load":                              "called in bubbles only",
		"loadtest/selfcheck_test.go: pausing":                               "called in bubbles only",
		"loadtest/selfcheck_test.go: TestTokensAreTimedAsTheyCome":          "its server runs in a bubble only",
		"proxy/edge_test.go: end":                                           "called in bubbles only",
		"proxy/patience_test.go: TestABackendThatDoesNotBeginIsGivenUp":     "its backends run in bubbles only",
		"router/consul/watch_test.go: pass":                                 "called in bubbles only",
		"warmpool/agent/lab_test.go: newLab":                                "called in bubbles only",
		"warmpool/agent/lab_test.go: recv":                                  "called in bubbles only",
		"warmpool/agent/metering_test.go: pass":                             "called in bubbles only",
		"warmpool/agent/metering_test.go: wantBooked":                       "called in bubbles only",
		"warmpool/replicas_test.go: crowd":                                  "called in bubbles only",
		"warmpool/keeper_test.go: use":                                      "called in bubbles only",
		"warmpool/keeper_test.go: Sleep":                                    "called in bubbles only",
		"warmpool/wish_test.go: wish":                                       "called in bubbles only",
		"warmpool/launch/checkpoint_test.go: up":                            "polls a real process",
		"warmpool/launch/process_test.go: childOf":                          "polls a real process",

		"warmpool/launch/process_test.go: TestAServerThatDiesIsSaidToBeGoneAndTakesItsGroupAlong": "polls a real process",
	}
}

func TestPackagesImportOneWay(t *testing.T) {
	allowed := layout()
	for _, f := range sources(t) {
		may, known := allowed[f.dir]
		if !known {
			t.Errorf("%s is in a package that arch_test.go does not know: give it a row, and think about what it may import", f.path)
			continue
		}
		for _, path := range f.imports(t) {
			ours, found := strings.CutPrefix(path, "pilotlight/")
			if found && ours != f.dir && !slices.Contains(may, ours) && !(f.isTest() && strings.HasPrefix(ours, "loadtest/")) && !(f.isTest() && f.dir == ".") {
				t.Errorf("%s imports %s; package %s may import %v", f.path, path, f.dir, may)
			}
		}
	}
}

func TestDependenciesStayBehindTheirFences(t *testing.T) {
	for _, f := range sources(t) {
		if f.isTest() {
			continue
		}
		for _, path := range f.imports(t) {
			if path == "net/http" && f.dir == "proxy" && !slices.Contains(http2Files(), filepath.Base(f.path)) {
				t.Errorf("%s imports net/http; the edge is fasthttp, and net/http's types are not its own", f.path)
			}
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
				continue // the standard library's, or ours
			}
			if module := moduleOf(path); !slices.Contains(fences()[module], f.dir) {
				t.Errorf("%s imports %s; outside of tests these packages may: %v", f.path, path, fences()[module])
			}
		}
	}
}

// moduleOf is the longest module of fences that holds the package, or the package itself.
func moduleOf(path string) string {
	for module := path; module != "."; module = filepath.Dir(module) {
		if _, found := fences()[module]; found {
			return module
		}
	}
	return path
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	for _, f := range sources(t) {
		if !f.isTest() {
			said[f.dir] = said[f.dir] || f.syntax.Doc != nil
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(said)) {
		if !said[dir] {
			t.Errorf("package %s has no package comment", dir)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(layout())) {
		if _, exists := said[dir]; !exists {
			t.Errorf("arch_test.go knows a package %s that is not there", dir)
		}
	}
}

func TestNothingHappensBeforeMain(t *testing.T) {
	for _, f := range sources(t) {
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", f.path)
			}
		}
	}
}

func TestTestsDoNotSleepInRealTime(t *testing.T) {
	excused := bareSleeps()
	for _, f := range sources(t) {
		if !f.isTest() {
			continue
		}
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !sleepsInRealTime(fn) {
				continue
			}
			key := f.path + ": " + fn.Name.Name
			if _, ok := bareSleeps()[key]; !ok {
				t.Errorf("%s sleeps outside a synctest bubble", key)
			}
			delete(excused, key)
		}
	}
	for key := range excused {
		t.Errorf("%s is excused by arch_test.go and does not sleep", key)
	}
}

// sleepsInRealTime says whether fn calls time.Sleep other than within the arguments of synctest.Test.
func sleepsInRealTime(fn *ast.FuncDecl) (found bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		s, ok := callee(n)
		found = found || ok && s == "time.Sleep"
		return !ok || s != "synctest.Test"
	})
	return found
}

// callee is the name of the function of another package that n calls.
func callee(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	pkg, ok := s.X.(*ast.Ident)
	if !ok {
		return "", false
	}
	return pkg.Name + "." + s.Sel.Name, true
}

// source is one file of this module.
type source struct {
	path, dir string
	syntax    *ast.File
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) imports(t *testing.T) []string {
	var paths []string
	for _, spec := range s.syntax.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// sources are the Go files of this module, for whatever platform they are, without those of nested modules.
func sources(t *testing.T) (files []source) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return enter(path, d.Name())
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		files = append(files, source{filepath.ToSlash(path), filepath.ToSlash(filepath.Dir(path)), syntax})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// enter is fs.SkipDir for folders without Go files of this module.
func enter(path, name string) error {
	if path == "." {
		return nil
	}
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	if err == nil || name[0] == '.' || name[0] == '_' || name == "testdata" || name == "node_modules" || path == "bin" {
		return fs.SkipDir
	}
	return nil
}
