// Command cmd writes a tiny model: go run ./deploy/tinymodel/cmd FILE [SEED]
package main

import (
	"fmt"
	"os"
	"strconv"

	"pilotlight/deploy/tinymodel"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("usage: go run ./deploy/tinymodel/cmd FILE [SEED]")
	}
	seed := uint64(1)
	if len(args) == 2 {
		var err error
		if seed, err = strconv.ParseUint(args[1], 10, 64); err != nil {
			return fmt.Errorf("the seed is %q; it must be a whole number of 0 or more", args[1])
		}
	}
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	if err := tinymodel.Write(f, seed); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
