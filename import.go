package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"pilotlight/config"
	"pilotlight/config/foreign"
)

type importCmd struct {
	LlamaSwap importLlamaSwapCmd `cmd:"" name:"llama-swap" help:"From a configuration file of llama-swap."`
	Ollama    importOllamaCmd    `cmd:"" help:"From the models that a running Ollama has."`
}

type importLlamaSwapCmd struct {
	imported
	File string        `arg:"" type:"existingfile" help:"Its configuration file."`
	GPU  []config.Size `placeholder:"SIZE" help:"Memory of a GPU of this host, once for each, as in --gpu 24GiB. Without it the driver's figures count once pilotlight runs."`
}

func (c importLlamaSwapCmd) Run() error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("read the configuration of llama-swap: %w", err)
	}
	im, err := foreign.LlamaSwap(text, foreign.Surroundings{
		GPUs: c.GPU, Getenv: os.LookupEnv, Source: c.File,
		FileSize: func(path string) (int64, bool) {
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() {
				return 0, false
			}
			return info.Size(), true
		},
	})
	return c.write(im, err)
}

type importOllamaCmd struct {
	imported
	URL string `default:"http://127.0.0.1:11434" placeholder:"URL" help:"Where it answers (${default})."`
}

func (c importOllamaCmd) Run(ctx context.Context) error {
	im, err := foreign.Ollama(ctx, c.URL)
	return c.write(im, err)
}

// imported is where an import goes.
type imported struct {
	Out   string `short:"o" placeholder:"FILE" help:"Write it there, rather than to the standard output."`
	Force bool   `help:"Overwrite the file."`
}

// write writes what was made, and says what a person has to look at. What Parse would not take is written too: it is nearly there.
func (o imported) write(im *foreign.Import, err error) error {
	if im == nil {
		return err
	}
	for _, note := range im.Notes {
		fmt.Fprintln(os.Stderr, note)
	}
	if o.Out == "" {
		_, failed := os.Stdout.Write(im.File)
		return errors.Join(err, failed)
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if o.Force {
		how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, failed := os.OpenFile(o.Out, how, 0o600)
	if errors.Is(failed, os.ErrExist) {
		return fmt.Errorf("%s is there already; --force overwrites it", o.Out)
	}
	if failed != nil {
		return fmt.Errorf("write the configuration: %w", failed)
	}
	_, failed = f.Write(im.File)
	if failed = errors.Join(failed, f.Close()); failed != nil {
		return fmt.Errorf("write the configuration: %w", failed)
	}
	if err == nil {
		fmt.Fprintf(os.Stderr, "%s is written. Start it with: pilotlight serve -c %s\n", o.Out, o.Out)
	}
	return err
}
