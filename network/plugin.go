package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// plugins runs CNI plugins. Other than libcni's own way, a plugin that does not end in time is killed with all that
// it started, and one never outlives podd: a second ADD must not meet the first one still at work.
type plugins struct{ version.PluginDecoder }

// maxOutput is more than any CNI result needs.
const maxOutput = 1 << 20

// FindInPath finds a plugin by name; a name with a path separator is refused.
func (*plugins) FindInPath(plugin string, dirs []string) (string, error) {
	return invoke.FindInPath(plugin, dirs)
}

// ExecPlugin runs a plugin in a process group of its own.
func (*plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	// The death signal is sent when the thread that forked ends, not the process: the thread is held until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var stdout, stderr limited
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for what left the group and holds the pipes
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	return nil, pluginError(ctx, filepath.Base(path), err, stdout.Bytes(), stderr.String())
}

// pluginError prefers what the plugin said on standard output, as the CNI specification has it.
func pluginError(ctx context.Context, name string, err error, stdout []byte, stderr string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: killed: %w", name, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", name, err)
	}
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		return fmt.Errorf("%s: %w", name, &said)
	}
	if stderr = strings.TrimSpace(stderr); stderr != "" {
		return fmt.Errorf("%s: %w: %.500s", name, err, stderr)
	}
	return fmt.Errorf("%s: %w: no error was printed", name, err)
}

// limited keeps the first maxOutput bytes and takes the rest without keeping it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
