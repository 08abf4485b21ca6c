package main

import (
	"context"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/kubectl/pkg/cmd/cp"
	"k8s.io/kubectl/pkg/cmd/exec"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
)

// cp is kubectl's, which may be done with an archive before it knows how tar ended and then says that all went well.
// This one waits for it.
func (p *podctl) cp(f cmdutil.Factory) *cobra.Command {
	cmd := cp.NewCmdCp(f, p.shown)
	cmdutil.CheckErr(cmd.RegisterFlagCompletionFunc("container", func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		for _, arg := range args {
			if pod, _, ok := strings.Cut(arg, ":"); ok {
				return completion.ContainerCompletionFunc(f)(cmd, []string{pod}, typed)
			}
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}))
	cmd.Run = func(cmd *cobra.Command, args []string) {
		o := cp.NewCopyOptions(p.shown)
		flags := cmd.Flags()
		var err error
		o.Container, err = flags.GetString("container")
		cmdutil.CheckErr(err)
		o.NoPreserve, err = flags.GetBool("no-preserve")
		cmdutil.CheckErr(err)
		o.MaxTries, err = flags.GetInt("retries")
		cmdutil.CheckErr(err)
		cmdutil.CheckErr(o.Complete(f, cmd, args))
		cmdutil.CheckErr(o.Validate())
		tars := &tars{RemoteExecutor: o.Executor}
		o.Executor = tars
		cmdutil.CheckErr(o.Run())
		cmdutil.CheckErr(tars.wait())
	}
	return cmd
}

// tars runs commands in containers and keeps to itself how those ended that pack or unpack.
type tars struct {
	exec.RemoteExecutor

	run sync.WaitGroup
	mu  sync.Mutex
	err error // of the first that did not work
}

func (t *tars) Execute(url *url.URL, config *rest.Config, in io.Reader, out, errOut io.Writer, tty bool, sizes remotecommand.TerminalSizeQueue) error {
	return t.ExecuteWithContext(context.Background(), url, config, in, out, errOut, tty, sizes)
}

func (t *tars) ExecuteWithContext(ctx context.Context, url *url.URL, config *rest.Config, in io.Reader, out, errOut io.Writer, tty bool, sizes remotecommand.TerminalSizeQueue) error {
	if slices.Contains(url.Query()["command"], "test") {
		return t.RemoteExecutor.ExecuteWithContext(ctx, url, config, in, out, errOut, tty, sizes)
	}
	t.run.Add(1) // before anything is read of it, and so before wait
	defer t.run.Done()
	err := t.RemoteExecutor.ExecuteWithContext(ctx, url, config, in, out, errOut, tty, sizes)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
	return nil
}

func (t *tars) wait() error {
	t.run.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
