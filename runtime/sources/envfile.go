package sources

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// maxEnvFile is how much of a file with variables is read, in bytes. Containers write such files.
const maxEnvFile = 1 << 20

// fileKey is the value of a variable in a file of a volume. What the file says beside it does not come into an error.
func (e *environment) fileKey(ref *v1.FileKeySelector) (string, bool, error) {
	if e.host.Open == nil {
		return "", false, unresolved("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	f, err := e.host.Open(ref.VolumeName, ref.Path)
	if errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, unresolved("couldn't parse env file: volume %s: %v", ref.VolumeName, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err == nil && len(text) > maxEnvFile {
		err = fmt.Errorf("is larger than %d bytes", maxEnvFile)
	}
	value := ""
	if err == nil {
		value, err = envFileValue(string(text), ref.Key)
	}
	if err != nil {
		return "", false, unresolved("couldn't parse env file: volume %s: %s: %v", ref.VolumeName, ref.Path, err)
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, unresolved("environment variable key %q not found in file %q of volume %s", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, value != "", nil
}

// envFileValue is the value of key in a file of lines NAME='value', "" if it has none (pkg/kubelet/util/env). A value may
// go over several lines and is taken as it is; lines that begin with # are comments, and so is what a # begins after the
// value. A blank after the equals sign means that the value is empty. The first NAME counts, and what is after it is not
// read.
func envFileValue(text, key string) (string, error) {
	const blanks = " \t"
	lines := strings.Split(text, "\n")
	for n := 0; n < len(lines); n++ {
		line := strings.TrimLeft(withoutCR(lines[n]), blanks)
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, ok := strings.Cut(line, "=")
		switch {
		case !ok:
			return "", fmt.Errorf("line %d: missing '='", n+1)
		case strings.TrimRight(name, blanks) == "":
			return "", fmt.Errorf("line %d: empty variable name", n+1)
		case strings.TrimRight(name, blanks) != name:
			return "", fmt.Errorf("line %d: whitespace before '=' is not allowed", n+1)
		}
		if strings.TrimLeft(rest, blanks) != rest {
			if name == key {
				return "", nil
			}
			continue
		}
		rest, ok = strings.CutPrefix(rest, "'")
		if !ok {
			return "", fmt.Errorf("line %d: value must be enclosed in single quotes", n+1)
		}
		begun, value := n+1, ""
		for !strings.Contains(rest, "'") {
			value += rest + "\n"
			if n++; n >= len(lines) || n == len(lines)-1 && lines[n] == "" {
				return "", fmt.Errorf("line %d: unclosed single quote", begun)
			}
			rest = withoutCR(lines[n])
		}
		end, after, _ := strings.Cut(rest, "'")
		if after = strings.TrimLeft(after, blanks); after != "" && after[0] != '#' {
			return "", fmt.Errorf("line %d: unexpected content after closing quote", n+1)
		}
		if name == key {
			return value + end, nil
		}
	}
	return "", nil
}

// withoutCR is a line as bufio.ScanLines gives it.
func withoutCR(line string) string { return strings.TrimSuffix(line, "\r") }
