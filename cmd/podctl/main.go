// Command podctl is the client of podd. What kubectl does for pods it does with kubectl's own commands, over podd's
// unix socket or with a kubeconfig; apply reads manifests strictly before anything is sent; image, kubeconfig, why and
// doctor are podd's own.
//
// One file per verb; kube.go has the list of them and those that are kubectl's as they are.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/klog/v2"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"podd/cmd/early"
	_ "podd/cmd/podctl/english"
)

func main() {
	time.AfterFunc(time.Second, early.Over) // what takes longer follows something
	klog.SetLogger(logr.Discard())          // what the libraries log is said again by the error they return
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	utilruntime.ErrorHandlers = append(utilruntime.ErrorHandlers, forwardErrors(streams.ErrOut))
	os.Exit(run(os.Args[1:], streams, os.Exit))
}

// forwardErrors prints to w why a port could not be forwarded: the error that follows says only that the connection is lost.
func forwardErrors(w io.Writer) utilruntime.ErrorHandler {
	if terminal(w) {
		w = &cleaner{w: w}
	}
	return func(_ context.Context, err error, _ string, _ ...any) {
		if err != nil && strings.HasPrefix(err.Error(), "an error occurred forwarding ") {
			fmt.Fprintln(w, "error:", err)
		}
	}
}

// exit is what ends a command early; run turns it into the exit code.
type exit struct {
	message string
	code    int
}

// run does what podctl does and answers with the exit code. kubectl's commands end the process where something goes
// wrong, by die, on whatever goroutine they are; without it they end by a panic, which run catches on its own.
func run(args []string, streams genericiooptions.IOStreams, die func(code int)) (code int) {
	p := &podctl{args: args, streams: streams, shown: streams}
	if terminal(streams.Out) {
		p.shown.Out = &cleaner{w: streams.Out}
	}
	if terminal(streams.ErrOut) {
		p.shown.ErrOut = &cleaner{w: streams.ErrOut}
	}
	p.client.warn = p.shown.ErrOut
	cmdutil.BehaviorOnFatal(func(message string, code int) {
		if die != nil {
			p.explain(message)
			die(code)
		}
		panic(exit{message, code})
	})
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
	defer p.client.close()
	root := p.root(args)
	cmd, err := root.ExecuteC()
	if err != nil {
		p.explain("error: " + err.Error())
		return 1
	}
	if p.abandoned(cmd) {
		p.say(p.goneWords())
		return 1
	}
	return 0
}

// podctl is one run of the command.
type podctl struct {
	args    []string
	streams genericiooptions.IOStreams // as they are
	shown   genericiooptions.IOStreams // cleaned of terminal control where they are terminals: for what comes from pods
	client  client

	verbosity int

	gone   sync.Once // podd was looked for
	isGone bool
}

// root is the command line for args.
func (p *podctl) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "podctl",
		Short: "podctl runs pods on this host",
		Long:  "podctl runs pods on this host, through podd. Its commands are those of kubectl.",
		Example: `  podctl apply -f pod.yaml
  podctl get pods -w
  podctl logs -f web
  podctl why web
  podctl exec -it web -- sh`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			p.log()
			return nil
		},
	}
	root.SetArgs(args)
	root.SetOut(p.streams.Out)
	root.SetErr(p.streams.ErrOut)
	root.SetIn(p.streams.In)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help' for usage", err, cmd.CommandPath())
	})
	root.AddGroup(groups...)
	root.SetHelpCommandGroupID(settings)
	flags := root.PersistentFlags()
	p.client.addFlags(flags)
	flags.IntVarP(&p.verbosity, "v", "v", 0, "how much to log of what goes on with podd: 6 has the requests, 8 what is in them")
	name, rest := target(args, flags)
	for _, v := range p.verbs(rest) {
		root.AddCommand(v.command(name))
	}
	if err := root.RegisterFlagCompletionFunc("namespace", p.completeNamespaces); err != nil {
		panic(err)
	}
	return root
}

// target is the command that args are for, as far as it can be told, and what follows it.
func target(args []string, flags *pflag.FlagSet) (string, []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == cobra.ShellCompRequestCmd, arg == cobra.ShellCompNoDescRequestCmd, arg == "help":
		case !strings.HasPrefix(arg, "-"):
			return arg, args[i+1:]
		case arg == "--":
			return "", nil
		case !strings.Contains(arg, "="):
			var flag *pflag.Flag
			if name, long := strings.CutPrefix(arg, "--"); long {
				flag = flags.Lookup(name)
			} else if len(arg) == 2 {
				flag = flags.ShorthandLookup(arg[1:])
			}
			if flag != nil && flag.NoOptDefVal == "" { // its value is the next
				i++
			}
		}
	}
	return "", nil
}

// command is v ready to run if it is the one called name, and else its entry in the list of commands.
func (v verb) command(name string) *cobra.Command {
	cmd := &cobra.Command{Use: v.name, Aliases: v.aliases, RunE: func(*cobra.Command, []string) error {
		return fmt.Errorf("write %q before the flags", v.name) // target and cobra disagree
	}}
	if v.name == name || slices.Contains(v.aliases, name) {
		if cmd = v.make(); v.name != "kubeconfig" { // which is about kubectl
			rename(cmd)
		}
	}
	cmd.Short, cmd.GroupID, cmd.Hidden = v.short, v.group, v.group == ""
	return cmd
}

// log shows what the libraries log, if that is asked for. What goes wrong is said by the error they return.
func (p *podctl) log() {
	if p.verbosity <= 0 {
		return
	}
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	if err := flags.Set("v", strconv.Itoa(p.verbosity)); err != nil {
		return
	}
	klog.ClearLogger()
}

// options lists the flags that all commands have, as kubectl's help says it does.
func (p *podctl) options() *cobra.Command {
	return &cobra.Command{
		Use:  "options",
		Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(p.streams.Out, "These flags can be given to every command:\n\n%s", cmd.InheritedFlags().FlagUsages())
		},
	}
}

// ours makes podctl of kubectl in a text; the names of annotations stay.
var ours = strings.NewReplacer("kubectl.kubernetes.io", "kubectl.kubernetes.io", "kubectl", "podctl")

// advised is kubectl where a message tells to run it. Elsewhere in a message it may be the name of a pod or a file.
var advised = regexp.MustCompile(`(^|[\s"'` + "`" + `(])kubectl( [a-z-])`)

// rename makes podctl of kubectl in what cmd says about itself.
func rename(cmd *cobra.Command) {
	for _, s := range []*string{&cmd.Use, &cmd.Short, &cmd.Long, &cmd.Example} {
		*s = ours.Replace(*s)
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
	if p.lost(message) {
		message = p.goneWords()
	} else if hint := p.client.unreachable(); hint != "" {
		p.say("error: " + hint)
		return
	}
	p.say(p.elsewhere(p.args, advised.ReplaceAllString(message, "${1}podctl$2")))
}

// say prints a message that ends a command.
func (p *podctl) say(message string) {
	fmt.Fprintln(p.shown.ErrOut, strings.TrimSuffix(message, "\n"))
}

// terminal tells whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
