package launch

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestMain makes the test binary a model server where it is started as one.
func TestMain(m *testing.M) {
	if behaviour := os.Getenv("FAKE_SERVER"); behaviour != "" {
		serveFake(behaviour, os.Args[1])
		return
	}
	if host := os.Getenv("WAKE_CONTAINER"); host != "" {
		wakeContainer(host)
		return
	}
	os.Exit(m.Run())
}

// serveFake is a model server with vLLM's endpoints, loading for a moment after its start. Its behaviour is a list of words:
//
//	crash       it cannot load, and ends
//	taken=FILE  its port is taken, unless FILE exists; then it makes FILE
//	hang        it loads for ever, and logs our probes meanwhile
//	family      it has a stubborn child of its own, whose number it logs
//	stubborn    it does not end when it is told to
//	asleep      it comes up asleep
//	cuda=DIR    it uses CUDA, as the stand-in for cuda-checkpoint in DIR sees
//	noise       it says that a GPU was short of memory long before it crashes of something else
func serveFake(behaviour, port string) {
	words := map[string]string{}
	for word := range strings.FieldsSeq(behaviour) {
		key, value, _ := strings.Cut(word, "=")
		words[key] = value
	}
	has := func(word string) bool { _, ok := words[word]; return ok }

	fmt.Println("gpus", os.Getenv("CUDA_VISIBLE_DEVICES"), "token", os.Getenv("TOKEN"), "port", os.Getenv("PORT"))
	if has("stubborn") {
		signal.Ignore(syscall.SIGTERM)
	}
	if dir := words["cuda"]; dir != "" {
		if err := os.WriteFile(dir+"/"+strconv.Itoa(os.Getpid()), []byte("running\n"), 0o600); err != nil {
			panic(err)
		}
	}
	if has("noise") {
		fmt.Println("CUDA out of memory, trying smaller batches\n" + strings.Repeat("loading\n", 2000) + "bad magic")
		os.Exit(1)
	}
	if has("crash") {
		fmt.Println("loading weights\nRuntimeError: CUDA out of memory\nbye")
		os.Exit(3)
	}
	if file := words["taken"]; file != "" {
		if _, err := os.Stat(file); err != nil {
			_ = os.WriteFile(file, nil, 0o600)
			fmt.Println("listen tcp 127.0.0.1:" + port + ": bind: address already in use")
			os.Exit(1)
		}
	}
	if has("family") {
		child := exec.Command(os.Args[0], "0")
		child.Env = append(os.Environ(), "FAKE_SERVER=hang stubborn cuda="+words["cuda"])
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Println("child", child.Process.Pid)
	}
	serveVLLM(port, has("hang"), has("asleep"))
}

func serveVLLM(port string, hang, asleep bool) {
	began := time.Now()
	var sleeping atomic.Bool
	sleeping.Store(asleep)
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		panic(err)
	}
	panic(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/health":
			if hang || time.Since(began) < 50*time.Millisecond {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Println("GET /health 503")
			}
		case "/sleep", "/wake_up":
			sleeping.Store(r.URL.Path == "/sleep")
		case "/is_sleeping":
			_, _ = w.Write([]byte(`{"is_sleeping":` + strconv.FormatBool(sleeping.Load()) + `}`))
		}
	})))
}
