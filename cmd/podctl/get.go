package main

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/get"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	utilcomp "k8s.io/kubectl/pkg/util/completion"
)

// get is kubectl's, which says that there is nothing where it cannot sort what there is: it then prints nothing, drops the error,
// and has written nothing.
func (p *podctl) get(f cmdutil.Factory) *cobra.Command {
	streams := p.shown
	note := &noneFound{w: streams.ErrOut}
	streams.ErrOut = note
	cmd := get.NewCmdGet("podctl", f, streams)
	cmd.ValidArgsFunction = utilcomp.ResourceTypeAndNameCompletionFunc(f)
	inner := cmd.Run
	cmd.Run = func(cmd *cobra.Command, words []string) {
		note.hold = cmd.Flags().Changed("sort-by") && !slices.Contains(p.args, "--")
		inner(cmd, words)
		if len(note.held) == 0 {
			return
		}
		cmdutil.CheckErr(p.unsorted())
		_, _ = note.w.Write(note.held)
	}
	return cmd
}

// unsorted is why what the same command gets cannot be sorted: where it prints names it says so.
func (p *podctl) unsorted() error {
	var said bytes.Buffer
	code := run(append(slices.Clone(p.args), "--output=name", "--show-labels=false"), genericiooptions.IOStreams{In: p.streams.In, Out: io.Discard, ErrOut: &said}, nil)
	if code == 0 {
		return nil
	}
	message, _, _ := strings.Cut(said.String(), "\n") // what helps is said with it again
	return errors.New(strings.TrimPrefix(message, "error: "))
}

// noneFound is a writer that can hold back that nothing was found.
type noneFound struct {
	w    io.Writer
	hold bool
	held []byte
}

func (n *noneFound) Write(text []byte) (int, error) {
	if n.hold && bytes.HasPrefix(text, []byte("No resources found")) {
		n.held = slices.Clone(text)
		return len(text), nil
	}
	return n.w.Write(text)
}
