package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// read is what podd makes of its configuration file and of the words of its command line.
func read(t *testing.T, file string, words ...string) (config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return given(t, append(words, "--config", path)...)
}

func given(t *testing.T, words ...string) (config, error) {
	t.Helper()
	c := defaults()
	f := pflag.NewFlagSet("podd", pflag.ContinueOnError)
	c.flags(f)
	if err := f.Parse(words); err != nil {
		t.Fatal(err)
	}
	err := c.load(f)
	c.ConfigFile = ""
	return c, err
}

// TestConfigFile: the file is below the flags, whatever their type, and above the defaults.
func TestConfigFile(t *testing.T) {
	const file = `
root: /file/root
pod-cidr: 10.9.0.0/16
max-pods: 7
container-log-max-size: 4096
restart-backoff: 3s
restart-backoff-max: 20s
eviction-hard: ""
runtime-handler: {crun: /file/crun}
`
	c, err := read(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/file/root" || c.PodCIDR != "10.9.0.0/16" || c.MaxPods != 7 || c.LogMaxSize != 4096 ||
		c.BackoffBase.Duration != 3*time.Second || c.BackoffMax.Duration != 20*time.Second || c.Handlers["crun"] != "/file/crun" || c.EvictionHard != "" {
		t.Errorf("of the file came %+v", c)
	}
	if d := defaults(); c.State != d.State || c.LogMaxFiles != d.LogMaxFiles || c.PullBase != d.PullBase {
		t.Errorf("what the file does not say is %+v", c)
	}
	if want := "/file/root/secrets.key"; c.SecretsKey != want {
		t.Errorf("secrets-key is %s, want %s: beside the root that the file names", c.SecretsKey, want)
	}
	// A flag that says the default wins as well.
	c, err = read(t, file, "--root", "/flag/root", "--pod-cidr", defaults().PodCIDR, "--max-pods=8", "--container-log-max-size=5000",
		"--restart-backoff=4s", "--runtime-handler", "crun=/flag/crun")
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/flag/root" || c.PodCIDR != defaults().PodCIDR || c.MaxPods != 8 || c.LogMaxSize != 5000 ||
		c.BackoffBase.Duration != 4*time.Second || c.Handlers["crun"] != "/flag/crun" {
		t.Errorf("the flags do not win: %+v", c)
	}
	if c.BackoffMax.Duration != 20*time.Second {
		t.Errorf("restart-backoff-max is %s, want what the file says", c.BackoffMax)
	}
}

// TestConfigFileIsWrong: what is wrong with the file is an error that names the file and the key.
func TestConfigFileIsWrong(t *testing.T) {
	for file, want := range map[string]string{
		"rot: /var/lib/podd\n":                      `unknown key "rot"`,
		"Root: /var/lib/podd\n":                     `unknown key "Root"`,
		"config: /etc/other.yaml\n":                 `unknown key "config"`,
		"noManifests: true\n":                       `unknown key "noManifests"`,
		"root: /a\nroot: /b\n":                      `key "root" already set`,
		"max-pods: many\n":                          "max-pods: must be a whole number, not a string",
		"root: [a]\n":                               "root: must be a string, not a list",
		"restart-backoff: 5\n":                      "must be a time with its unit",
		"root: relative\n":                          `root "relative": must be an absolute path`,
		"pod-cidr: 10.84.0.0/15\n":                  "service-cidr",
		"image-gc-high-threshold: 101\n":            "image-gc-high-threshold 101: must be from 1 to 100",
		"image-gc-low-threshold: 85\n":              "image-gc-low-threshold 85: must be from 0 to below image-gc-high-threshold, which is 85",
		"minimum-image-ttl-duration: -1s\n":         "must not be negative",
		"eviction-hard: memory.free<1Gi\n":          `eviction-hard: "memory.free<1Gi": unknown signal "memory.free": there are memory.available,`,
		"eviction-hard: memory.available\n":         "must be SIGNAL<VALUE",
		"eviction-hard: {memory.available: 1Gi}\n":  "eviction-hard: must be a string",
		"eviction-pressure-transition-period: 0s\n": "must be more than nothing",
		"max-pods: 0\n":                             "max-pods 0: must be at least 1",
		"- root\n":                                  "must be lines of `key: value`",
		"root: [\n":                                 "read configuration",
		"runtime-handler: {runc: /bin/x}\n":         "runc",
	} {
		if c, err := read(t, file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s; it became %+v", file, err, want, c)
		}
	}
}

// TestNoConfigFile: one that was named must be there, even where the default one may be missing.
func TestNoConfigFile(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "config.yaml")
	if _, err := given(t, "--config", missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a file that was named and is not there: %v", err)
	}
	c := defaults()
	f := pflag.NewFlagSet("podd", pflag.ContinueOnError)
	c.flags(f)
	c.ConfigFile = missing // as the default that nobody named
	if err := c.load(f); err != nil {
		t.Errorf("no file, and none was named: %v", err)
	}
	// Scripts, kubeconfig files and podctl (TestDefaultSocket) have these by heart.
	if c.Listen != "/run/podd/podd.sock" || c.TLSListen != "127.0.0.1:6550" || c.Root != "/var/lib/podd" {
		t.Errorf("without a file: %+v", c)
	}
}

// TestInstalledConfig: the file that is installed can be read and changes nothing, and what it shows as defaults are those.
func TestInstalledConfig(t *testing.T) {
	data, err := os.ReadFile("../../install/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := read(t, "{}")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^# ([a-z-]+:)`).ReplaceAllString(string(data), "$1")
	if strings.Count(shown, "\n") == strings.Count(string(data), "\n") && shown == string(data) {
		t.Fatal("the file shows no default")
	}
	for what, text := range map[string]string{"as it is": string(data), "with its comments taken off": shown} {
		if c, err := read(t, text); err != nil || !reflect.DeepEqual(c, want) {
			t.Errorf("%s: %v\n%+v, want\n%+v", what, err, c, want)
		}
	}
}

// TestKeysAreFlags: every flag but --config is a key of the file, by the same name, and there is no other.
func TestKeysAreFlags(t *testing.T) {
	keys := map[string]bool{}
	for i := range reflect.TypeFor[config]().NumField() {
		name, _, _ := strings.Cut(reflect.TypeFor[config]().Field(i).Tag.Get("json"), ",")
		keys[name] = name != "" && name != "-"
	}
	c := defaults()
	f := pflag.NewFlagSet("podd", pflag.ContinueOnError)
	c.flags(f)
	f.VisitAll(func(fl *pflag.Flag) {
		if !keys[fl.Name] && fl.Name != "config" {
			t.Errorf("flag --%s is no key", fl.Name)
		}
		delete(keys, fl.Name)
	})
	for name, key := range keys {
		if key {
			t.Errorf("key %s is no flag", name)
		}
	}
}
