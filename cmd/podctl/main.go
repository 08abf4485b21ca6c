// Command podctl is the client of podd. What kubectl does for pods it does with kubectl's own commands, over podd's
// unix socket; apply reads manifests strictly before anything is sent, and image speaks podd's own paths.
//
// One file per verb; kube.go has those that are kubectl's as they are.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func main() {
	klog.SetLogger(logr.Discard()) // what the libraries log is said again by the error they return
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	os.Exit(run(os.Args[1:], streams))
}

// exit is what ends a command early; run turns it into the exit code.
type exit struct {
	message string
	code    int
}

// run does what podctl does and answers with the exit code.
func run(args []string, streams genericiooptions.IOStreams) (code int) {
	p := &podctl{streams: streams, shown: streams}
	if terminal(streams.Out) {
		p.shown.Out = &cleaner{w: streams.Out}
	}
	if terminal(streams.ErrOut) {
		p.shown.ErrOut = &cleaner{w: streams.ErrOut}
	}
	p.client.warn = p.shown.ErrOut
	// kubectl's commands end by calling this; they do so on the goroutine that runs them.
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(exit{message, code}) })
	defer func() {
		switch e := recover().(type) {
		case nil:
		case exit:
			p.explain(e.message)
			code = e.code
		default:
			panic(e)
		}
	}()
	root := p.root()
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		p.explain("error: " + err.Error())
		return 1
	}
	return 0
}

// podctl is one run of the command.
type podctl struct {
	streams genericiooptions.IOStreams // as they are
	shown   genericiooptions.IOStreams // cleaned of terminal control where they are terminals: for what comes from pods
	client  client
}

func (p *podctl) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "podctl",
		Short: "podctl runs pods on this host",
		Long:  "podctl runs pods on this host, through podd. Its commands are those of kubectl.",
		Example: `  podctl apply -f pod.yaml
  podctl get pods -w
  podctl logs -f web
  podctl exec -it web -- sh`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(p.streams.Out)
	root.SetErr(p.streams.ErrOut)
	root.SetIn(p.streams.In)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help' for usage", err, cmd.CommandPath())
	})
	p.client.addFlags(root.PersistentFlags())
	for _, cmd := range p.kubectl() {
		rename(cmd)
		root.AddCommand(cmd)
	}
	root.AddCommand(p.image(), p.version())
	if err := root.RegisterFlagCompletionFunc("namespace", p.completeNamespaces); err != nil {
		panic(err)
	}
	return root
}

// rename makes podctl of kubectl in what cmd says about itself.
func rename(cmd *cobra.Command) {
	for _, s := range []*string{&cmd.Use, &cmd.Short, &cmd.Long, &cmd.Example} {
		*s = strings.ReplaceAll(*s, "kubectl", "podctl")
	}
	for _, sub := range cmd.Commands() {
		rename(sub)
	}
}

// explain prints why a command did not do what was asked, and what to do about it where that is known.
func (p *podctl) explain(message string) {
	if message == "" {
		return
	}
	if hint := p.client.unreachable(); hint != "" {
		message = "error: " + hint
	}
	message = strings.TrimSuffix(message, "\n")
	fmt.Fprintln(p.shown.ErrOut, strings.ReplaceAll(message, "kubectl", "podctl"))
}

// terminal tells whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
