package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"pilotlight/proxy/admin"
)

// The scripts ask `pilotlight complete` for what may come next, so that they are never older than the program.
const (
	bashCompletion = `# pilotlight completion bash > /etc/bash_completion.d/pilotlight
_pilotlight() {
	local cur=${COMP_WORDS[COMP_CWORD]} line
	COMPREPLY=()
	while IFS= read -r line; do
		if [[ $line == :files ]]; then
			compopt -o filenames 2> /dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		COMPREPLY+=("${line%%$'\t'*}")
	done < <("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2> /dev/null)
}
complete -F _pilotlight pilotlight
`
	zshCompletion = `#compdef pilotlight
# pilotlight completion zsh > "${fpath[1]}/_pilotlight"
_pilotlight() {
	local -a lines shown
	lines=("${(@f)$("${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2> /dev/null)}")
	if [[ ${lines[1]} == :files ]]; then
		_files
		return
	fi
	local line
	for line in $lines; do
		shown+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	_describe pilotlight shown
}
compdef _pilotlight pilotlight
`
	fishCompletion = `# pilotlight completion fish > ~/.config/fish/completions/pilotlight.fish
function __pilotlight
	set -l words (commandline -opc)
	set -l lines ($words[1] complete -- $words[2..] (commandline -ct) 2> /dev/null)
	if test "$lines[1]" = ":files"
		__fish_complete_path (commandline -ct)
	else
		printf '%s\n' $lines
	end
end
complete -c pilotlight -f -a '(__pilotlight)'
`
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: bash, zsh or fish."`
}

// Help says where the script goes.
func (completionCmd) Help() string {
	return `Prints a script by which the shell completes verbs, flags, files, and the names of models of the pilotlight that runs here.

  bash   source <(pilotlight completion bash)                                       in ~/.bashrc
  zsh    source <(pilotlight completion zsh)                                        in ~/.zshrc, after compinit
  fish   pilotlight completion fish > ~/.config/fish/completions/pilotlight.fish`
}

func (c completionCmd) Run() error {
	_, err := fmt.Print(map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell])
	return err
}

type completeCmd struct {
	Words []string `arg:"" optional:""`
}

// Run prints what may stand in place of the last word, one a line, with what it means behind a tab; :files stands for the names of files.
func (c completeCmd) Run(ctx context.Context, told *kong.Context) error {
	for _, line := range complete(told.Model.Node, c.Words, func(addr string) []string { return modelNames(ctx, addr) }) {
		fmt.Println(line)
	}
	return nil
}

const namesOfFiles = ":files"

// defaultAdmin is where the verbs ask that are told nothing else.
const defaultAdmin = "127.0.0.1:8081"

// complete is what may stand in place of the last of words, which may be empty. Models are the names that the pilotlight at an admin port knows.
func complete(at *kong.Node, words []string, models func(addr string) []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	before, last := words[:len(words)-1], words[len(words)-1]
	var value *kong.Flag // whose value comes next
	addr, placed := defaultAdmin, 0
	for _, word := range before {
		switch {
		case value != nil:
			if value.Name == "admin" {
				addr = word
			}
			value = nil
		case strings.HasPrefix(word, "-"):
			value = wanting(at, word)
		default:
			child := slices.IndexFunc(at.Children, func(n *kong.Node) bool { return n.Name == word })
			if child < 0 {
				placed++
				break
			}
			at = at.Children[child]
		}
	}
	switch {
	case value != nil:
		return starting(last, values(value.Value, nil))
	case strings.HasPrefix(last, "-"):
		return starting(last, flagsOf(at))
	case len(at.Children) > 0:
		var all []string
		for _, n := range at.Children {
			if !n.Hidden {
				all = append(all, n.Name+"\t"+n.Help)
			}
		}
		return starting(last, all)
	case len(at.Positional) > 0:
		arg := at.Positional[min(placed, len(at.Positional)-1)]
		if placed >= len(at.Positional) && !arg.IsCumulative() {
			return nil
		}
		return starting(last, values(arg, func() []string { return models(addr) }))
	}
	return nil
}

// flagsOf are the flags that may stand at a node.
func flagsOf(at *kong.Node) (all []string) {
	for _, group := range at.AllFlags(true) {
		for _, f := range group {
			all = append(all, "--"+f.Name+"\t"+f.Help)
		}
	}
	return all
}

// wanting is the flag that a word is, if its value is the next word.
func wanting(at *kong.Node, word string) *kong.Flag {
	for _, group := range at.AllFlags(false) {
		for _, f := range group {
			if (word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short)) && !f.IsBool() {
				return f
			}
		}
	}
	return nil
}

// values are those that an argument or a flag may have, as far as they can be named.
func values(v *kong.Value, models func() []string) []string {
	switch {
	case v.Enum != "":
		return v.EnumSlice()
	case v.Tag.Type == "existingfile" || v.Tag.Type == "path" || strings.EqualFold(v.Tag.PlaceHolder, "FILE"):
		return []string{namesOfFiles}
	case v.Name == "model" && models != nil:
		return models()
	}
	return nil
}

// starting are those of all that start with a word.
func starting(with string, all []string) (some []string) {
	for _, one := range all {
		if one == namesOfFiles || strings.HasPrefix(one, with) {
			some = append(some, strings.ReplaceAll(one, "\n", " "))
		}
	}
	return some
}

// plainName is a name that means nothing else to a shell: whoever names models is not to write on a command line.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/@+-]*$`)

// modelNames asks a running pilotlight. A shell does not wait long.
func modelNames(ctx context.Context, addr string) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	status, err := admin.Client{Addr: addr}.Status(ctx)
	if err != nil {
		return nil
	}
	for i := range status.Models {
		if m := &status.Models[i]; plainName.MatchString(m.Name) {
			names = append(names, m.Name+"\t"+m.State)
		}
	}
	return names
}
