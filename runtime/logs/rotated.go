package logs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// rotatedLayout is the time in the name of a rotated file, as upstream has it (pkg/kubelet/logs, timestampFormat), in UTC.
const rotatedLayout = "20060102-150405"

// age orders rotated files: the second of their rotation, and a number where one second saw several.
type age struct {
	second string
	number int
}

func (a age) compare(b age) int {
	return cmp.Or(strings.Compare(a.second, b.second), cmp.Compare(a.number, b.number))
}

// name is "0.log.20060102-150405", or "0.log.20060102-150405.0001" for the next one of that second.
func (a age) name(live string) string {
	if a.number == 0 {
		return live + "." + a.second
	}
	return fmt.Sprintf("%s.%s.%04d", live, a.second, a.number)
}

// after is the age of a file rotated now, later than last also when the clock went back.
func after(last age, now time.Time) age {
	second := now.UTC().Format(rotatedLayout)
	if second > last.second {
		return age{second: second}
	}
	return age{last.second, last.number + 1}
}

type rotated struct {
	age
	name   string
	packed bool
}

// parseRotated understands the name of a rotated file of the live file.
func parseRotated(live, name string) (rotated, bool) {
	r := rotated{name: name}
	rest, ok := strings.CutPrefix(name, live+".")
	if !ok {
		return r, false
	}
	rest, r.packed = strings.CutSuffix(rest, ".gz")
	second, number, numbered := strings.Cut(rest, ".")
	if _, err := time.Parse(rotatedLayout, second); err != nil {
		return r, false
	}
	r.second = second
	if numbered {
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			return r, false
		}
		r.number = n
	}
	return r, true
}

// rotatedFiles lists the rotated files of path, oldest first, each once: a file that is just being packed is there twice,
// and then the plain one counts. An empty one is about to change places with the live file, and does not count yet.
func rotatedFiles(path string) ([]rotated, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	live := filepath.Base(path)
	var all []rotated
	for _, e := range entries {
		r, ok := parseRotated(live, e.Name())
		if !ok {
			continue
		}
		if st, err := e.Info(); err == nil && st.Size() > 0 {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b rotated) int {
		return cmp.Or(a.compare(b.age), strings.Compare(a.name, b.name))
	})
	return slices.CompactFunc(all, func(a, b rotated) bool { return a.age == b.age }), nil
}
