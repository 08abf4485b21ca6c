// podd-logd writes the log files of all containers of a host. podd starts it in a session of its own; it outlives podd, and
// ends when podd tells it over its socket, or on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"podd/runtime/logs"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "podd-logd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("podd-logd", flag.ContinueOnError)
	socket := flags.String("socket", "/run/podd/logd.sock", "unix socket to serve")
	state := flags.String("state", "", "directory of the records (default: the socket with .d)")
	build := flags.String("build", version, "what to say of this build when asked")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *state == "" {
		*state = *socket + ".d"
	}
	runtime.GOMAXPROCS(2)
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(32 << 20)
	_, _ = syscall.Setsid() // fails when podd has done it
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	l, unlock, err := logs.Listen(*socket)
	if err != nil {
		return err
	}
	defer unlock()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return logs.Serve(ctx, l, logs.ServeOptions{State: *state, Build: *build, Log: log})
}
