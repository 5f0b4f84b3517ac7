// Command cmd is the model server of package grpcsim as a process: gRPC on one port, the health check over HTTP on another.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"time"

	"pilotlight/loadtest/grpcsim"
)

func main() {
	model := flag.String("model", "m", "the model's `name`")
	addr := flag.String("grpc", "", "the `address` of gRPC")
	health := flag.String("http", "", "the `address` of the health check")
	flag.Parse()
	log.Fatal(serve(*model, *addr, *health))
}

func serve(model, addr, health string) error {
	protocol, err := grpcsim.Load(context.Background())
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- protocol.NewServer(model, nil).Serve(ln) }()
	server := &http.Server{Addr: health, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: time.Second}
	go func() { failed <- server.ListenAndServe() }()
	return <-failed
}
