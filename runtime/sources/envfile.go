package sources

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// maxEnvFile is how much of a file with variables is read, in bytes. Containers write such files.
const maxEnvFile = 1 << 20

// maxEnvFiles is how much of such files is kept for one environment, in bytes.
const maxEnvFiles = 16 << 20

// fileKey is the value of a variable in a file of a volume. What the file says beside it does not come into an error.
func (e *environment) fileKey(ctx context.Context, ref *v1.FileKeySelector) (string, bool, error) {
	if err := ctx.Err(); err != nil {
		return "", false, err
	}
	if e.host.Open == nil {
		return "", false, unresolved("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	f, err := e.envFile(ref)
	if errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, unresolved("couldn't parse env file: volume %s: %v", ref.VolumeName, err)
	}
	value, err := f.value(ref.Key)
	if err != nil {
		return "", false, unresolved("couldn't parse env file: volume %s: %s: %v", ref.VolumeName, ref.Path, err)
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, unresolved("environment variable key %q not found in file %q of volume %s", ref.Key, ref.Path, ref.VolumeName)
	}
	return value, value != "", nil
}

// envFile reads a file, once for all variables of it.
func (e *environment) envFile(ref *v1.FileKeySelector) (*envFile, error) {
	at := [2]string{ref.VolumeName, ref.Path}
	if f, ok := e.files[at]; ok {
		return f, nil
	}
	file, err := e.host.Open(ref.VolumeName, ref.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxEnvFile+1))
	if err == nil && len(text) > maxEnvFile {
		err = fmt.Errorf("is larger than %d bytes", maxEnvFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Path, err)
	}
	if e.fileBytes += len(text); e.fileBytes > maxEnvFiles || e.files == nil {
		e.files, e.fileBytes = map[[2]string]*envFile{}, len(text)
	}
	e.files[at] = newEnvFile(string(text))
	return e.files[at], nil
}

// envFile is a file of lines NAME='value' (pkg/kubelet/util/env). A value may go over several lines and is taken as it is;
// lines that begin with # are comments, and so is what a # begins after the value. A blank after the equals sign means that
// the value is empty. The first NAME counts, and what is after it is not read for it. So the file is read as far as
// somebody has asked.
type envFile struct {
	lines  []string
	n      int               // of the line that comes next
	values map[string]string // of the lines before it
	err    error             // why there is nothing more
}

func newEnvFile(text string) *envFile {
	return &envFile{lines: strings.Split(text, "\n"), values: map[string]string{}}
}

// value is that of a key, "" if the file has none.
func (f *envFile) value(key string) (string, error) {
	for {
		if value, ok := f.values[key]; ok {
			return value, nil
		}
		if f.err != nil || f.n >= len(f.lines) {
			return "", f.err
		}
		name, value, err := f.next()
		if f.err = err; err != nil {
			continue
		}
		if _, known := f.values[name]; !known && name != "" {
			f.values[name] = value
		}
	}
}

// next reads one variable, or a line without any, which has no name.
func (f *envFile) next() (name, value string, err error) {
	const blanks = " \t"
	defer func() { f.n++ }()
	line := strings.TrimLeft(withoutCR(f.lines[f.n]), blanks)
	if line == "" || line[0] == '#' {
		return "", "", nil
	}
	name, rest, ok := strings.Cut(line, "=")
	switch {
	case !ok:
		return "", "", fmt.Errorf("line %d: missing '='", f.n+1)
	case strings.TrimRight(name, blanks) == "":
		return "", "", fmt.Errorf("line %d: empty variable name", f.n+1)
	case strings.TrimRight(name, blanks) != name:
		return "", "", fmt.Errorf("line %d: whitespace before '=' is not allowed", f.n+1)
	}
	if strings.TrimLeft(rest, blanks) != rest {
		return name, "", nil
	}
	rest, ok = strings.CutPrefix(rest, "'")
	if !ok {
		return "", "", fmt.Errorf("line %d: value must be enclosed in single quotes", f.n+1)
	}
	begun := f.n + 1
	var text strings.Builder
	for !strings.Contains(rest, "'") {
		text.WriteString(rest)
		text.WriteByte('\n')
		if f.n++; f.n >= len(f.lines) || f.n == len(f.lines)-1 && f.lines[f.n] == "" {
			return "", "", fmt.Errorf("line %d: unclosed single quote", begun)
		}
		rest = withoutCR(f.lines[f.n])
	}
	end, after, _ := strings.Cut(rest, "'")
	if after = strings.TrimLeft(after, blanks); after != "" && after[0] != '#' {
		return "", "", fmt.Errorf("line %d: unexpected content after closing quote", f.n+1)
	}
	text.WriteString(end)
	return name, text.String(), nil
}

// withoutCR is a line as bufio.ScanLines gives it.
func withoutCR(line string) string { return strings.TrimSuffix(line, "\r") }
