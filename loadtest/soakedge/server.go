package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

// reply is a piece of an answer. Every piece says which request it belongs to.
type reply struct {
	Nonce string `json:"nonce"`
	Sum   uint32 `json:"sum,omitempty"` // of an upload
	Size  int64  `json:"size,omitempty"`
	Piece int    `json:"piece,omitempty"`
	Last  bool   `json:"last,omitempty"`
}

// question is what is asked in JSON.
type question struct {
	Model  string `json:"model"`
	Stream bool   `json:"stream"`
	Nonce  string `json:"nonce"`
	Filler string `json:"filler"`
}

// serve is a model server, until it is killed. It speaks gRPC on an address of its own.
func serve(addr, grpcAddr string) error {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	calls := &http.Server{Addr: grpcAddr, Protocols: &protocols, Handler: http.HandlerFunc(answerCall)}
	failed := make(chan error, 2)
	go func() { failed <- calls.ListenAndServe() }()
	go func() { failed <- http.ListenAndServe(addr, http.HandlerFunc(answer)) }()
	return <-failed
}

// answerCall repeats the message of a call.
func answerCall(w http.ResponseWriter, r *http.Request) {
	message, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Trailer", "Grpc-Status, X-Nonce")
	w.Write(message)
	h.Set("Grpc-Status", "0")
	h.Set("X-Nonce", r.Header.Get("X-Nonce"))
}

func answer(w http.ResponseWriter, r *http.Request) {
	nonce := r.Header.Get("X-Nonce")
	switch {
	case r.Method == http.MethodGet && r.Header.Get("Upgrade") != "":
		echo(w, nonce)
	case r.Method == http.MethodGet: // a probe
	case r.Header.Get("Content-Type") == "application/octet-stream":
		sum := crc32.NewIEEE()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			return
		}
		say(w, reply{Nonce: nonce, Sum: sum.Sum32(), Size: n})
	default:
		var q question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if q.Nonce != nonce {
			http.Error(w, "the head is of "+nonce+", the body of "+q.Nonce, http.StatusConflict)
			return
		}
		if q.Stream {
			stream(w, r, nonce)
			return
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		say(w, reply{Nonce: nonce})
	}
}

func say(w http.ResponseWriter, what reply) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(what) // whoever has left hears nothing
}

// stream takes up to a second.
func stream(w http.ResponseWriter, r *http.Request, nonce string) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	pieces := 1 + rand.IntN(20)
	for i := range pieces {
		text, _ := json.Marshal(reply{Nonce: nonce, Piece: i + 1, Last: i == pieces-1})
		fmt.Fprintf(w, "data: %s\n\n", text)
		control.Flush()
		select {
		case <-time.After(time.Duration(rand.IntN(50)) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

// echo repeats lines on an upgraded connection, each behind the nonce.
func echo(w http.ResponseWriter, nonce string) {
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	for both.Flush() == nil {
		line, err := bufio.NewReader(both).ReadString('\n')
		if err != nil {
			return
		}
		fmt.Fprint(both, nonce+" "+line)
	}
}
