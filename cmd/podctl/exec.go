package main

import (
	"context"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	clientspdy "k8s.io/client-go/transport/spdy"
	kubexec "k8s.io/kubectl/pkg/cmd/exec"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

func (p *podctl) exec(f cmdutil.Factory) *cobra.Command {
	options := &kubexec.ExecOptions{
		StreamOptions: kubexec.StreamOptions{IOStreams: p.streams},
		Executor:      &executor{&p.client},
	}
	cmd := &cobra.Command{
		Use:                   "exec POD [-c CONTAINER] [flags] -- COMMAND [args...]",
		DisableFlagsInUseLine: true,
		Short:                 "Execute a command in a container",
		Long: "Execute a command in a container. podctl ends with the exit code of the command.\n\n" +
			"Without --tty, what the command prints is stripped of terminal control before it reaches a terminal.",
		Example: `  # The output of date, in the first container of pod web
  podctl exec web -- date

  # A shell in container app
  podctl exec -it web -c app -- sh`,
		ValidArgsFunction: completion.PodResourceNameCompletionFunc(f),
		Run: func(cmd *cobra.Command, args []string) {
			if !options.TTY {
				options.Out, options.ErrOut = p.shown.Out, p.shown.ErrOut
			}
			cmdutil.CheckErr(options.Complete(f, cmd, args, cmd.ArgsLenAtDash()))
			cmdutil.CheckErr(options.Validate())
			cmdutil.CheckErr(options.Run())
		},
	}
	cmdutil.AddPodRunningTimeoutFlag(cmd, time.Minute)
	cmdutil.AddJsonFilenameFlag(cmd.Flags(), &options.Filenames, "to use to exec into the resource")
	cmdutil.AddContainerVarFlags(cmd, &options.ContainerName, "")
	cmdutil.CheckErr(cmd.RegisterFlagCompletionFunc("container", completion.ContainerCompletionFunc(f)))
	cmd.Flags().BoolVarP(&options.Stdin, "stdin", "i", false, "Pass stdin to the container")
	cmd.Flags().BoolVarP(&options.TTY, "tty", "t", false, "Stdin is a TTY")
	cmd.Flags().BoolVarP(&options.Quiet, "quiet", "q", false, "Only print output from the remote session")
	return cmd
}

// executor runs a command over the socket. client-go's own executors dial the address in the URL.
type executor struct{ client *client }

func (e *executor) Execute(url *url.URL, config *rest.Config, stdin io.Reader, stdout, stderr io.Writer, tty bool, sizes remotecommand.TerminalSizeQueue) error {
	return e.ExecuteWithContext(context.Background(), url, config, stdin, stdout, stderr, tty, sizes)
}

func (e *executor) ExecuteWithContext(ctx context.Context, url *url.URL, _ *rest.Config, stdin io.Reader, stdout, stderr io.Writer, tty bool, sizes remotecommand.TerminalSizeQueue) error {
	upgrader, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{
		UpgradeTransport: e.client.transport(),
		PingPeriod:       5 * time.Second, // a server that went away is noticed
	})
	if err != nil {
		return err
	}
	stream, err := remotecommand.NewSPDYExecutorForTransports(upgrader, clientspdy.NewUpgraderForStreaming(upgrader), "POST", url)
	if err != nil {
		return err
	}
	return stream.StreamWithContext(ctx, remotecommand.StreamOptions{
		Stdin: stdin, Stdout: stdout, Stderr: stderr, Tty: tty, TerminalSizeQueue: sizes,
	})
}
