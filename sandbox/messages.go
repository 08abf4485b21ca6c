package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"podd/runtime/killpoint"
)

// Termination messages: one file per instance, which is mounted into its container and may be written by anyone there. They
// lie on a tmpfs of their pod, so that what containers write to them is bounded, and charged to their memory.
const (
	messagesDir  = "messages"
	messagesSize = "1m"
)

// MessageLimit is how many bytes a termination message has at most (pkg/kubelet/container/runtime.go,
// MaxContainerTerminationMessageLength).
const MessageLimit = 4096

// EnsureMessage has the file for the termination message of the instance with that container id, and names it.
func (s *Sandboxes) EnsureMessage(uid, id string) (string, error) {
	s.messages.Lock()
	defer s.messages.Unlock()
	dir := filepath.Join(s.podDir(uid), messagesDir)
	if err := ensureTmpfs(dir, "mode=0700,size="+messagesSize); err != nil {
		return "", fmt.Errorf("make file for termination message: %w", err)
	}
	killpoint.At("sandbox.message.mounted")
	name := filepath.Join(dir, id)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return "", fmt.Errorf("make file for termination message: %w", err)
	}
	defer func() { _ = f.Close() }()
	killpoint.At("sandbox.message.made")
	if err := f.Chmod(0o666); err != nil {
		return "", fmt.Errorf("make file for termination message: %w", err)
	}
	return name, nil
}

// Message is the end of what an instance has written to its file, at most MessageLimit bytes; "" if there is nothing, or
// what is there is no file. A container cannot replace its file, but a pod with a hostPath might.
func (s *Sandboxes) Message(uid, id string) string {
	dir, err := os.Open(s.podDir(uid))
	if err != nil {
		return ""
	}
	defer func() { _ = dir.Close() }()
	fd, err := unix.Openat2(int(dir.Fd()), messagesDir+"/"+id, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), id)
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(st.Size()-MessageLimit, 0), MessageLimit))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(bytes.TrimRight(data, "\x00")), "?")
}

// RemoveMessage takes the file of an instance away; nil when there is none.
func (s *Sandboxes) RemoveMessage(uid, id string) error {
	killpoint.At("sandbox.message.remove")
	err := os.Remove(filepath.Join(s.podDir(uid), messagesDir, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
