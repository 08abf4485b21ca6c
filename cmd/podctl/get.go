package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/get"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	utilcomp "k8s.io/kubectl/pkg/util/completion"
)

// get is kubectl's, which says that there is nothing where it cannot sort what there is: it then prints nothing, drops the error,
// and has written nothing.
func (p *podctl) get(f cmdutil.Factory) *cobra.Command {
	streams := p.shown
	note := &noneFound{w: streams.ErrOut, more: p.noNamespace}
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
		note.hold = false
		_, _ = note.Write(note.held)
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

// noneFound is a writer that can hold back that nothing was found. What more says of why that is follows it.
type noneFound struct {
	w    io.Writer
	hold bool
	held []byte
	more func(said string) string
}

func (n *noneFound) Write(text []byte) (int, error) {
	if n.hold && bytes.HasPrefix(text, []byte("No resources found")) {
		n.held = slices.Clone(text)
		return len(text), nil
	}
	if more := n.more(string(text)); more != "" {
		_, err := fmt.Fprintf(n.w, "%s-> %s\n", text, more)
		return len(text), err
	}
	return n.w.Write(text)
}

var foundNone = regexp.MustCompile(`^No resources found in (\S+) namespace\.\n$`)

// noNamespace is what to do where nothing was found in a namespace because there is none of that name; "" if that is not why.
func (p *podctl) noNamespace(said string) string {
	name := foundNone.FindStringSubmatch(said)
	if name == nil || name[1] == metav1.NamespaceDefault {
		return ""
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	res, err := p.client.request(ctx, http.MethodGet, "/api/v1/namespaces/"+url.PathEscape(name[1]), nil, nil)
	if err == nil {
		_ = res.Body.Close()
		return ""
	}
	if !strings.Contains(err.Error(), "not found") {
		return ""
	}
	return "There is no namespace " + name[1] + ": podctl get namespaces shows which there are."
}
