package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd/annotate"
	"k8s.io/kubectl/pkg/cmd/apiresources"
	"k8s.io/kubectl/pkg/cmd/attach"
	"k8s.io/kubectl/pkg/cmd/auth"
	"k8s.io/kubectl/pkg/cmd/completion"
	"k8s.io/kubectl/pkg/cmd/create"
	"k8s.io/kubectl/pkg/cmd/debug"
	"k8s.io/kubectl/pkg/cmd/delete"
	"k8s.io/kubectl/pkg/cmd/describe"
	"k8s.io/kubectl/pkg/cmd/diff"
	"k8s.io/kubectl/pkg/cmd/edit"
	"k8s.io/kubectl/pkg/cmd/events"
	"k8s.io/kubectl/pkg/cmd/exec"
	"k8s.io/kubectl/pkg/cmd/explain"
	"k8s.io/kubectl/pkg/cmd/label"
	"k8s.io/kubectl/pkg/cmd/patch"
	"k8s.io/kubectl/pkg/cmd/portforward"
	"k8s.io/kubectl/pkg/cmd/replace"
	"k8s.io/kubectl/pkg/cmd/top"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/cmd/wait"
	utilcomp "k8s.io/kubectl/pkg/util/completion"
)

// verb is one command of podctl. Only the one that is asked for is made: making them all takes longer than what most
// of them do.
type verb struct {
	name    string
	aliases []string
	group   string
	short   string
	make    func() *cobra.Command
}

// The groups of `podctl --help`.
const (
	basic    = "basic"
	look     = "look"
	inside   = "inside"
	change   = "change"
	settings = "settings"
)

var groups = []*cobra.Group{
	{ID: basic, Title: "Run pods:"},
	{ID: look, Title: "See what is and what was:"},
	{ID: inside, Title: "Into a pod:"},
	{ID: change, Title: "Change objects:"},
	{ID: settings, Title: "Images and settings:"},
}

// verbs is all commands. args is what follows the one that is asked for.
func (p *podctl) verbs(args []string) []verb {
	f := cmdutil.NewFactory(cmdutil.NewMatchVersionFlags(&p.client))
	utilcomp.SetFactoryForCompletion(f)
	all := slices.Concat(p.lookVerbs(f), p.insideVerbs(f, args), p.changeVerbs(f))
	return append(all,
		verb{"apply", nil, basic, "Make what manifests say, or change it", func() *cobra.Command { return p.apply(f) }},
		verb{"run", nil, basic, "Run an image in a pod, or with -f the pods of manifests to their end", p.runVerb(f, args)},
		verb{"delete", nil, basic, "Delete pods and other objects", func() *cobra.Command { return delete.NewCmdDelete(f, p.shown) }},
		verb{"why", nil, look, "Say why a pod is not running or not ready", func() *cobra.Command { return p.why(f) }},
		verb{"image", nil, settings, "List, pull, load and remove images", p.image},
		verb{"images", nil, "", "List images", p.imagesVerb},
		verb{"kubeconfig", nil, settings, "Print a kubeconfig for kubectl and other clients", p.kubeconfig},
		verb{"doctor", nil, settings, "Check what podd needs of this host", p.doctor},
		verb{"version", nil, settings, "Print the version of podctl and of podd", p.version},
		verb{"completion", nil, settings, "Print the completion of a shell", func() *cobra.Command {
			return completion.NewCmdCompletion(p.streams.Out, "# Completion of podctl.\n")
		}},
		verb{"options", nil, "", "List the flags that all commands have", p.options},
	)
}

func (p *podctl) lookVerbs(f cmdutil.Factory) []verb {
	return []verb{
		{"get", nil, basic, "List pods and other objects", func() *cobra.Command { return p.get(f) }},
		{"logs", nil, basic, "Print what a container has written", func() *cobra.Command { return p.logs(f) }},
		{"describe", nil, look, "Show one object with all about it", func() *cobra.Command { return describe.NewCmdDescribe("podctl", f, p.shown) }},
		{"events", nil, look, "List events", func() *cobra.Command { return events.NewCmdEvents(f, p.shown) }},
		{"wait", nil, look, "Wait until something is true of a pod", func() *cobra.Command {
			cmd := wait.NewCmdWait(f, p.shown)
			cmd.ValidArgsFunction = utilcomp.ResourceTypeAndNameCompletionFunc(f)
			return cmd
		}},
		{"top", nil, look, "Show the CPU and memory that pods and the host use", func() *cobra.Command {
			cmd := top.NewCmdTop(f, p.shown)
			cmd.Long = "Show the CPU and memory that pods, their containers and the host use. podd measures them itself."
			return cmd
		}},
		{"explain", nil, look, "Show the documentation of fields", func() *cobra.Command { return explain.NewCmdExplain("podctl", f, p.shown) }},
		{"diff", nil, look, "Show what apply would change", func() *cobra.Command { return diff.NewCmdDiff(f, p.shown) }},
		{"api-resources", nil, look, "List the kinds of objects", func() *cobra.Command { return apiresources.NewCmdAPIResources(f, p.shown) }},
		{"api-versions", nil, look, "List the groups and versions of the API", func() *cobra.Command { return apiresources.NewCmdAPIVersions(f, p.shown) }},
		{"auth", nil, look, "Say who you are and what you may", func() *cobra.Command {
			cmd := auth.NewCmdAuth(f, p.shown)
			only(cmd, "whoami", "can-i")
			return cmd
		}},
	}
}

func (p *podctl) insideVerbs(f cmdutil.Factory, args []string) []verb {
	return []verb{
		{"exec", nil, inside, "Run a command in a container", p.interactive(args, func(s genericiooptions.IOStreams) *cobra.Command {
			return exec.NewCmdExec(f, s)
		})},
		{"attach", nil, inside, "Join the input and output of a container", p.interactive(args, func(s genericiooptions.IOStreams) *cobra.Command {
			prompt := &promptWords{w: s.ErrOut}
			s.ErrOut = prompt
			cmd := attach.NewCmdAttach(f, s)
			cmd.PreRun = func(cmd *cobra.Command, _ []string) { prompt.flags = cmd.Flags() }
			cmdutil.CheckErr(cmd.RegisterFlagCompletionFunc("container", utilcomp.ContainerCompletionFunc(f)))
			return cmd
		})},
		{"port-forward", nil, inside, "Forward ports of this machine to a pod", func() *cobra.Command { return portforward.NewCmdPortForward(f, p.shown) }},
		{"cp", nil, inside, "Copy files into and out of containers", func() *cobra.Command { return p.cp(f) }},
		{"debug", nil, inside, "Put a container for debugging into a pod", p.interactive(args, func(s genericiooptions.IOStreams) *cobra.Command {
			cmd := debug.NewCmdDebug(f, s)
			cmd.ValidArgsFunction = utilcomp.PodResourceNameCompletionFunc(f)
			return cmd
		})},
	}
}

func (p *podctl) changeVerbs(f cmdutil.Factory) []verb {
	return []verb{
		{"create", nil, change, "Make objects from files or from flags", func() *cobra.Command {
			cmd := create.NewCmdCreate(f, p.shown)
			only(cmd, "configmap", "namespace", "priorityclass", "secret", "service", "serviceaccount", "token")
			return cmd
		}},
		{"edit", nil, change, "Change an object in an editor", func() *cobra.Command { return edit.NewCmdEdit(f, p.shown) }},
		{"patch", nil, change, "Change fields of an object", func() *cobra.Command { return patch.NewCmdPatch(f, p.shown) }},
		{"replace", nil, change, "Put an object in the place of another", func() *cobra.Command { return replace.NewCmdReplace(f, p.shown) }},
		{"label", nil, change, "Change the labels of objects", func() *cobra.Command { return label.NewCmdLabel(f, p.shown) }},
		{"annotate", nil, change, "Change the annotations of objects", func() *cobra.Command { return annotate.NewCmdAnnotate("podctl", f, p.shown) }},
	}
}

// only takes away the commands below cmd that podd has nothing for.
func only(cmd *cobra.Command, names ...string) {
	for _, sub := range cmd.Commands() {
		if !slices.Contains(names, sub.Name()) {
			cmd.RemoveCommand(sub)
		}
	}
}

// interactive gives a command the streams as they are if its flags ask for a terminal, and else those that are
// cleaned. The command keeps its streams from the moment it is made, so that its flags are looked at before.
func (p *podctl) interactive(args []string, make func(genericiooptions.IOStreams) *cobra.Command) func() *cobra.Command {
	return func() *cobra.Command {
		probe := make(p.shown)
		var other client
		other.addFlags(probe.PersistentFlags())
		if err := probe.ParseFlags(args); err == nil {
			if tty, err := probe.Flags().GetBool("tty"); err == nil && tty {
				return make(p.streams)
			}
		}
		return make(p.shown)
	}
}

// promptWords is a writer that has kubectl's words about a prompt said only where there may be one, and else where nobody can type that.
type promptWords struct {
	w     io.Writer
	flags *pflag.FlagSet
}

func (p *promptWords) Write(text []byte) (int, error) {
	recorded := bytes.HasPrefix(text, []byte("All commands and output from ")) && bytes.Contains(text, []byte(" will be recorded in container logs, including credentials"))
	if p.flags == nil || !recorded && !bytes.HasPrefix(text, []byte("If you don't see a command prompt")) {
		return p.w.Write(text)
	}
	stdin, _ := p.flags.GetBool("stdin")
	tty, _ := p.flags.GetBool("tty")
	switch {
	case tty && stdin:
		return p.w.Write(text)
	case !stdin && text[0] == 'I':
		_, err := fmt.Fprintln(p.w, "What is typed does not reach the container: that takes -i. Ctrl-C ends podctl, and not the container.")
		return len(text), err
	}
	return len(text), nil
}

// completeNamespaces completes --namespace.
func (p *podctl) completeNamespaces(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	f := cmdutil.NewFactory(&p.client)
	return utilcomp.CompGetResource(f, "namespace", typed), cobra.ShellCompDirectiveNoFileComp
}
