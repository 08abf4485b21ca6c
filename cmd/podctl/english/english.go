// Package english keeps kubectl's commands from reading a table of translations that has none: for English every text stands for
// itself there, and reading it takes a fifth of the time that a command needs for its start.
//
// It has to be set before the first package of kubectl's that has a text is initialised. Those need packages that come after
// this one by name, and of two packages that could be initialised the first by name is.
package english

import (
	"os"
	"strings"

	"k8s.io/kubectl/pkg/util/i18n"
)

// Late is the error if the table had been read by then.
var Late = i18n.SetLoadTranslationsFunc(load)

func load() error {
	if asked(os.Getenv) {
		return nil
	}
	return i18n.LoadTranslations("kubectl", nil)
}

// asked tells whether the environment asks for English, or for nothing else, by the variable that counts.
func asked(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := env(name); v != "" {
			language, _, _ := strings.Cut(v, ".")
			return language == "C" || language == "POSIX" || strings.HasPrefix(language, "en")
		}
	}
	return true
}
