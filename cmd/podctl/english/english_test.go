package english

import (
	"testing"

	"k8s.io/kubectl/pkg/util/i18n"
)

func TestAsked(t *testing.T) {
	for _, c := range []struct {
		all, messages, lang string
		want                bool
	}{
		{want: true},
		{lang: "en_US.UTF-8", want: true},
		{lang: "C.UTF-8", want: true},
		{lang: "C", want: true},
		{lang: "POSIX", want: true},
		{lang: "de_DE.UTF-8"},
		{all: "C", lang: "de_DE.UTF-8", want: true},
		{messages: "ja_JP.UTF-8", lang: "en_US.UTF-8"},
		{all: "ja_JP.UTF-8", messages: "C"},
	} {
		env := map[string]string{"LC_ALL": c.all, "LC_MESSAGES": c.messages, "LANG": c.lang}
		if got := asked(func(name string) string { return env[name] }); got != c.want {
			t.Errorf("asked with %v: %v", env, got)
		}
	}
}

// A text stands for itself, and another language still has its own.
func TestLoad(t *testing.T) {
	if Late != nil {
		t.Fatal(Late)
	}
	const text = "Delete the specified context from the kubeconfig"
	t.Setenv("LC_ALL", "C.UTF-8")
	if got := i18n.T(text); got != text {
		t.Errorf("in English: %q", got)
	}
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	if err := load(); err != nil {
		t.Fatal(err)
	}
	if got := i18n.T(text); got == text {
		t.Errorf("in German: %q", got)
	}
}
