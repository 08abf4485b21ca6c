package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// record is what podd wrote down of one pod, in <state>/records/<uid>. An attempt is in it from before the first
// plugin runs until DEL has worked and the namespace is gone.
//
// It is replaced by rename and not synced: after a power loss it may be missing together with the address files that
// the plugins wrote, and Known finds what is left of either.
type record struct {
	UID       string    `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Attempts  []attempt `json:"attempts"`
}

// attempt is the network of one sandbox of a pod.
type attempt struct {
	ID      string       `json:"id"`      // CNI container id: <uid>.<attempt>
	Attempt int          `json:"attempt"` // of the sandbox
	Config  string       `json:"config"`  // the configuration list that ADD ran with; DEL runs with the same
	Args    [][2]string  `json:"args"`    // CNI_ARGS
	Ports   []cniMapping `json:"ports,omitempty"`
	Apart   bool         `json:"apart,omitempty"` // Pod.Apart

	Bandwidth *cniBandwidth `json:"bandwidth,omitempty"` // for a plugin of the configuration that asks for it

	// What ADD made; zero while it has not ended well.
	Added   bool     `json:"added"`
	NetnsID string   `json:"netnsID,omitempty"` // device and inode of the namespace
	IPs     []string `json:"ips,omitempty"`
	HostIf  string   `json:"hostIf,omitempty"`  // host end of the interface, when there is one
	HostMAC string   `json:"hostMAC,omitempty"` // of HostIf
	Master  string   `json:"master,omitempty"`  // bridge that HostIf is on

	Mapped []mapping `json:"mapped,omitempty"` // host ports in podd's own table
}

// ids must do as file names and as CNI container ids (pkg/utils.ValidateContainerID of the CNI library).
var validUID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)

func checkUID(uid string) error {
	if !validUID.MatchString(uid) {
		return fmt.Errorf("pod uid %q: not usable as a name", uid)
	}
	return nil
}

// attemptID names one sandbox of a pod. It can be taken apart again, so that what is found on the host without a
// record still tells whose it is.
func attemptID(uid string, attempt int) string { return uid + "." + strconv.Itoa(attempt) }

func parseAttemptID(id string) (uid string, attempt int, ok bool) {
	i := strings.LastIndexByte(id, '.')
	if i <= 0 {
		return "", 0, false
	}
	n, err := strconv.Atoi(id[i+1:])
	if err != nil || n < 0 || checkUID(id[:i]) != nil || attemptID(id[:i], n) != id {
		return "", 0, false
	}
	return id[:i], n, true
}

func (r *record) find(nr int) *attempt {
	i := slices.IndexFunc(r.Attempts, func(a attempt) bool { return a.Attempt == nr })
	if i < 0 {
		return nil
	}
	return &r.Attempts[i]
}

func (r *record) drop(nr int) {
	r.Attempts = slices.DeleteFunc(r.Attempts, func(a attempt) bool { return a.Attempt == nr })
}

func (r *record) put(a attempt) {
	r.drop(a.Attempt)
	r.Attempts = append(r.Attempts, a)
}

func (n *Network) recordPath(uid string) string { return filepath.Join(n.o.recordDir(), uid) }

// readRecord is an empty record when there is none or when it cannot be understood: what it stood for is then found
// on the host.
func (n *Network) readRecord(uid string) (record, bool, error) {
	r := record{UID: uid}
	b, err := os.ReadFile(n.recordPath(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("read network record: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil || r.UID != uid {
		n.warnOnce("network record is not readable; going by what is on the host", "uid", uid, "error", err)
		return record{UID: uid}, false, nil
	}
	return r, true, nil
}

func (n *Network) writeRecord(r record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write network record: %w", err)
	}
	if err := replaceFile(n.recordPath(r.UID), b); err != nil {
		return fmt.Errorf("write network record: %w", err)
	}
	return nil
}

func (n *Network) removeRecord(uid string) error {
	err := os.Remove(n.recordPath(uid))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network record: %w", err)
	}
	return nil
}

// records are all that can be read.
func (n *Network) records() ([]record, error) {
	names, err := listDir(n.o.recordDir())
	if err != nil {
		return nil, fmt.Errorf("list network records: %w", err)
	}
	var all []record
	for _, uid := range names {
		if checkUID(uid) != nil {
			continue // the temporary file of a write that was cut off
		}
		r, there, err := n.readRecord(uid)
		if err != nil {
			return nil, err
		}
		if there {
			all = append(all, r)
		}
	}
	return all, nil
}

// replaceFile writes a file so that a reader sees all of the old or all of the new.
func replaceFile(path string, b []byte) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// removeUnfinished removes what a replaceFile that was cut off has left in a directory.
func removeUnfinished(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, ".*.new"))
	if err != nil {
		return err
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// listDir are the names in a directory; none when it is not there.
func listDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
