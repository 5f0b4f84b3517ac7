// Model is the simplest model server there is, as a static program for a container without anything else.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	port, how := os.Args[1], os.Args[2]
	ended := make(chan os.Signal, 1) // as the first process of a container it is not ended unless it says so
	signal.Notify(ended, syscall.SIGTERM)
	go func() { <-ended; os.Exit(0) }()
	fmt.Println("loading weights")
	time.Sleep(100 * time.Millisecond)
	switch how {
	case "crash":
		fmt.Println("RuntimeError: CUDA out of memory\nbye")
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour)
	case "soon":
		time.Sleep(2 * time.Second)
	case "slow": // to load, but it can be seen to go on
		for range 80 {
			time.Sleep(100 * time.Millisecond)
			fmt.Println("loaded another shard at", time.Now())
		}
	}
	panic(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
}
