package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"pilotlight/proxy/keys"
)

type keysCmd struct {
	New    keysNewCmd    `cmd:"" help:"Make a key. It is printed once; the file keeps its hash."`
	List   keysListCmd   `cmd:"" help:"List the keys of a file."`
	Revoke keysRevokeCmd `cmd:"" help:"Take a key out of a file. Edges that read the file refuse it within a second."`
}

// keysFile is the file that the verbs of keys are about.
type keysFile struct {
	File string `short:"f" required:"" placeholder:"FILE" help:"The file of keys, as keys.file of the configuration names it."`
}

type keysNewCmd struct {
	keysFile
	ID          string        `arg:"" help:"What people and logs call the key."`
	Certificate string        `placeholder:"NAME" help:"Make no key: a client's certificate with this name counts as one, where keys.certificate is configured."`
	Tenant      string        `placeholder:"NAME" help:"Who asks with it, for shares and bills. Default: the id."`
	Model       []string      `placeholder:"NAME" help:"A model that may be asked for, once for each; * stands for any characters but /. Default: all."`
	Expires     time.Duration `placeholder:"TIME" help:"For how long it counts, as in 2160h. Default: for ever."`
	Priority    string        `enum:"high,normal,low" default:"normal" help:"Its place in lines: high, normal or low (${default})."`
	Rate        float64       `placeholder:"N" help:"Requests per second. Default: any number."`
	Concurrency int           `placeholder:"N" help:"Requests at once. Default: any number."`
	Tokens      float64       `name:"tokens-per-minute" placeholder:"N" help:"Tokens of prompts and answers per minute. Default: any number."`
	JSON        bool          `help:"Print what is kept instead of writing it to the file, as Consul's KV takes it at PREFIX/keys/ID."`
}

func (c keysNewCmd) Run() error {
	k := keys.Key{ID: c.ID, Certificate: c.Certificate, Tenant: c.Tenant, Models: c.Model, Rate: c.Rate, Concurrency: c.Concurrency, Tokens: c.Tokens}
	if c.Priority != "normal" {
		k.Priority = keys.Priority(c.Priority)
	}
	if c.Expires > 0 {
		k.Expires = time.Now().Add(c.Expires).UTC().Truncate(time.Second)
	}
	secret := ""
	if c.Certificate == "" {
		var err error
		if secret, k, err = keys.New(k); err != nil {
			return err
		}
	}
	line, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	if _, err := keys.Parse(line); err != nil {
		return err
	}
	if c.JSON {
		fmt.Println(string(line))
	} else if err := c.add(append(line, '\n')); err != nil {
		return err
	}
	if secret == "" {
		fmt.Fprintf(os.Stderr, "Clients whose certificate bears %s are %s\n", c.Certificate, c.ID)
		return nil
	}
	fmt.Fprintf(os.Stderr, "The key of %s, which nobody can show again:\n", c.ID)
	fmt.Println(secret)
	return nil
}

// add appends a line to the file, whose owner alone may read it.
func (c keysNewCmd) add(line []byte) error {
	text, err := os.ReadFile(c.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the keys: %w", err)
	}
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	text = append(text, line...)
	if _, err := keys.Read(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("%s is left as it is: %w", c.File, err)
	}
	return replaceKeys(c.File, text)
}

// replaceKeys writes the file in one step.
func replaceKeys(file string, text []byte) error {
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write the keys: %w", err)
	}
	return nil
}

type keysListCmd struct {
	keysFile
}

func (c keysListCmd) Run() error {
	all, err := keys.ReadFile(c.File)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTENANT\tMODELS\tEXPIRES\tPRIORITY\tREQUESTS/S\tAT ONCE\tTOKENS/MIN\tSHOWS")
	for _, k := range all {
		expires := "never"
		if !k.Expires.IsZero() {
			expires = k.Expires.Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, orDash(k.Tenant), orDash(strings.Join(k.Models, ",")), expires, orDash(string(k.Priority)),
			limit(k.Rate), limit(float64(k.Concurrency)), limit(k.Tokens), shows(k))
	}
	return w.Flush()
}

// shows is what of a key tells it from others.
func shows(k keys.Key) string {
	if k.Certificate != "" {
		return "certificate " + k.Certificate
	}
	return "sha256 " + k.Hash[:12] + "…"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// limit is a limit; - where there is none.
func limit(n float64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

type keysRevokeCmd struct {
	keysFile
	ID string `arg:"" help:"The key's id."`
}

func (c keysRevokeCmd) Run() error {
	text, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("read the keys: %w", err)
	}
	var rest bytes.Buffer
	found := false
	for line := range bytes.Lines(text) {
		if k, err := keys.Parse(bytes.TrimSpace(line)); err == nil && k.ID == c.ID {
			found = true
			continue
		}
		rest.Write(line)
	}
	if !found {
		return fmt.Errorf("%s has no key called %s; pilotlight keys list -f %s shows those it has", c.File, c.ID, c.File)
	}
	return replaceKeys(c.File, rest.Bytes())
}
