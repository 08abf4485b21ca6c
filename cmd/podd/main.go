// podd runs Kubernetes Pods on this host.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"podd/cmd/early"
	_ "podd/cmd/early/now"
	"podd/sandbox"
	"podd/store"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "podd:", err)
		if hint := whatToDo(err); hint != "" {
			_, _ = fmt.Fprintln(os.Stderr, "->", hint)
		}
		os.Exit(1)
	}
}

// whatToDo is what helps against an error that ends podd; "" if nothing is known that would.
func whatToDo(err error) string {
	switch message := err.Error(); {
	case errors.Is(err, store.ErrInUse), errors.Is(err, sandbox.ErrInUse):
		return "Another podd beside it needs directories, a socket and names of its own: --root, --state, --listen and more; see podd --help."
	case strings.HasPrefix(message, "serve TLS (--tls-listen): ") && errors.Is(err, syscall.EADDRINUSE):
		return "Give another one: --tls-listen 127.0.0.1:0 takes any port that is free, --tls-listen \"\" none, and podctl needs none. ss -ltnp shows who has it."
	case strings.HasPrefix(message, "serve TLS (--tls-listen): ") && errors.Is(err, syscall.EADDRNOTAVAIL):
		return "Give an address of this host, or 0.0.0.0 for all of them: --tls-listen ADDRESS:PORT."
	case strings.HasPrefix(message, "node bundle: "):
		return "Its place is libexec/podd beside the directory of podd, or the one that --bundle names; make build and make install put it there."
	case strings.HasPrefix(message, "unknown flag: "), strings.HasPrefix(message, "unknown shorthand flag: "), strings.HasPrefix(message, "unknown command "):
		return "podd --help lists the commands and flags."
	}
	return ""
}

func command() *cobra.Command {
	c := defaults()
	root := &cobra.Command{
		Use:           "podd",
		Short:         "Run Kubernetes Pods on this host",
		Long:          "podd runs Kubernetes Pods on this host, without a cluster. podctl talks to it.\nIt stays in the foreground; ending it leaves all pods running.",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			klog.SetLogger(logr.Discard()) // until podd runs in the foreground there is no log
			return c.load(cmd.Flags())
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(c.LogLevel)
			if err != nil {
				return err
			}
			standard := slog.NewLogLogger(log.With("from", "library").Handler(), slog.LevelDebug) // of net/http and its like
			stdlog.SetFlags(0)
			stdlog.SetOutput(standard.Writer())
			klog.SetSlogLogger(slog.New(libraries{log.With("from", "kubernetes").Handler()}))
			return run(cmd.Context(), c, log)
		},
	}
	c.flags(root.PersistentFlags())
	root.AddCommand(teardownCommand(&c), versionCommand(), unmountCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print podd's version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), "podd", version) },
	}
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("flag --log-level %q: must be debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

// libraries holds the log of Kubernetes' and gRPC's packages, whose information is of use to podd's developers only. Their
// errors are warnings here: many are what a client has done, such as a socket that was dropped or a selector that is none,
// and nobody may fill podd's log with errors by that.
type libraries struct{ slog.Handler }

func (l libraries) Enabled(ctx context.Context, level slog.Level) bool {
	return l.Handler.Enabled(ctx, quieter(level))
}

func (l libraries) Handle(ctx context.Context, r slog.Record) error {
	r.Level = quieter(r.Level)
	if typedOn(r) {
		if r.Level = slog.LevelDebug; !l.Handler.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return l.Handler.Handle(ctx, r)
}

// typedOn tells whether a record is that of k8s.io/streaming (httpstream/wsstream) for what a client sends to a command that has ended: nothing
// is wrong then, and it comes with every command that ends while somebody types.
func typedOn(r slog.Record) (is bool) {
	if r.Message != "Unable to write frame" {
		return false
	}
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		is = ok && errors.Is(err, io.ErrClosedPipe)
		return !is
	})
	return is
}

func (l libraries) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraries{l.Handler.WithAttrs(attrs)}
}
func (l libraries) WithGroup(name string) slog.Handler { return libraries{l.Handler.WithGroup(name)} }

func quieter(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return min(level, slog.LevelDebug)
	}
	return slog.LevelWarn
}

// collect keeps podd small once it has started: half as much garbage before a collection as Go's default. That costs a sixth of
// the work under load, and the default twice the memory after it.
func collect() {
	early.Over()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	debug.FreeOSMemory()
	unmap()
}

// startTime is how long after it is ready podd has what it needs for its start.
const startTime = time.Second
