//go:build host

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"podd/test/ociimage"
)

// documentedImages are what the manifests of testdata/documented name. All of them are busybox: a server that is asked
// nothing may as well sleep.
var documentedImages = []string{"redis:8", "nginx:1.29", "mysql:9", "php:8-apache", "alpine:3", "busybox:1.28", "registry.k8s.io/busybox:1.27.2",
	"registry.k8s.io/test-webserver:1.0", "quay.io/crio/artifact:v2"}

// documented says of a pod of a file what a script in it prints, or, without a script, what it has printed when it is over.
type documented struct{ pod, script, want string }

// The manifests are such as Kubernetes' documentation has for volumes, configuration, projected volumes and the downward API.
// They are applied as they are, but that hostPaths are below a directory of the test.
var documentation = map[string][]documented{
	"volumes": {
		{"redis", "stat -c '%a %u' /data/redis; echo Hello >/data/redis/test-file && cat /data/redis/test-file", "777 0\nHello"},
		{"test-pd", "df -P /fast-cache | awk 'NR==2 {print $1, $2}'; touch /cache/x && echo ok", "tmpfs 16384\nok"},
		{"hostpath-example-linux", "cat /foo/file; touch /foo/x 2>&1; true", "of the host\ntouch: /foo/x: Read-only file system"},
		{"test-webserver", "echo x >/var/local/aaa/1.txt; stat -c '%a %F' /var/local/aaa /var/local/aaa/1.txt", "755 directory\n644 regular file"},
		{"pod1", "head -n 1 /logs/hello.txt; echo $POD_NAME", "Hello\npod1"},
		{"rro", "for d in rro ro rw; do touch /mnt-$d/x 2>/dev/null && echo $d; done", "rw"},
		{"image-volume", "ls -d /volume/bin; head -n 1 /part/passwd; touch /volume/x 2>&1; true", "/volume/bin\nroot:x:0:0:root:/root:/bin/sh\ntouch: /volume/x: Read-only file system"},
	},
	"persistent-volumes": {
		{"task-pv-pod", "cat /usr/share/nginx/html/index.html", "Hello from Kubernetes storage"},
		{"my-lamp-site", "touch /var/lib/mysql/db && ls /var/lib/mysql", "db"},
		{"my-app", "touch /scratch/x && stat -c %a /scratch", "777"},
	},
	"configuration": {
		{"configmap-demo-pod", "echo $PLAYER_INITIAL_LIVES $UI_PROPERTIES_FILE_NAME; ls /config; tail -n 1 /config/game.properties",
			"3 user-interface.properties\ngame.properties\nuser-interface.properties\nplayer.maximum-lives=5"},
		{"dapi-test-pod", "", "LOG_LEVEL=INFO\nSPECIAL_LEVEL_KEY=very"},
		{"dapi-test-pod-env-from", "", "SPECIAL_LEVEL=very\nSPECIAL_TYPE=charm"},
		{"dapi-test-pod-command", "", "very charm"},
		{"dapi-test-pod-volume", "", "SPECIAL_LEVEL\nSPECIAL_TYPE"},
		{"dapi-test-pod-key", "", "very"},
		{"dapi-test-pod-optional", "", "0"},
		{"dependent-envars-demo", "echo $UNCHANGED_REFERENCE $SERVICE_ADDRESS $ESCAPED_REFERENCE",
			"$(PROTOCOL)://172.17.0.1:80 https://172.17.0.1:80 $(PROTOCOL)://172.17.0.1:80"},
		{"envfile-test-pod", "", "address"},
	},
	"secrets": {
		{"secret-test-pod", "cd /etc/secret-volume; ls; cat username; echo; cat password", "password\nusername\nmy-app\n39528$vdg7Jb"},
		{"mypod", "stat -L -c %a /etc/foo/*; cat /etc/bar/my-group/my-username", "400\n400\nmy-app"},
		{"env-single-secret", "echo $SECRET_USERNAME", "my-app"},
		{"envfrom-secret", "echo $username $password", "my-app 39528$vdg7Jb"},
		{"secret-dotfiles-pod", "", "..DATE\n..data\n.secret-file"},
	},
	"projected": {
		{"volume-test", "cd /projected-volume; find -L . -type f ! -path './..*' | sort; cat labels my-group/my-username my-group/my-config",
			"./cpu_limit\n./labels\n./my-group/my-config\n./my-group/my-username\napp=\"documented\"adminsome"},
		{"volume-test-mode", "cd /projected-volume/my-group; stat -L -c '%n %a' *; cat *", "my-password 777\nmy-username 644\nanotheradmin"},
		{"sa-token-test", "cut -d. -f2 /service-account/vault-token | tr '_-' '/+' | base64 -d 2>/dev/null | grep -o '\"aud\":[^]]*]'; ls /var/run/secrets 2>/dev/null; true", `"aud":["vault"]`},
	},
	"downward-api": {
		{"kubernetes-downwardapi-volume-example", "cd /etc/podinfo; cat labels; echo; grep ^build annotations", "cluster=\"test-cluster1\"\nrack=\"rack-22\"\nzone=\"us-est-coast\"\nbuild=\"two\"\nbuilder=\"john-doe\""},
		{"kubernetes-downwardapi-volume-example-2", "cd /etc/podinfo; for f in *; do echo $f $(cat $f); done", "cpu_limit 250\ncpu_request 25\nmem_limit 64\nmem_request 32"},
		{"dapi-envars-fieldref", "", "dapi-envars-fieldref downward-api default\nnode and address"},
		{"dapi-envars-resourcefieldref", "", "1 1\n33554432 67108864"},
		{"security-context-demo", "id; stat -c %g /data/demo; echo hello >/data/demo/testfile; stat -c '%u %g' /data/demo/testfile", "uid=1000 gid=3000 groups=2000,3000,4000\n2000\n1000 2000"},
	},
}

// dated is the name of a version of a volume's content.
var dated = regexp.MustCompile(`\.\.\d{4}(_\d\d){5}\.\d+`)

func testDocumented(t *testing.T, s *suite) {
	s.documentedImages(t)
	for name, pods := range documentation {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range map[string]string{"foo/file": "of the host\n", "data/index.html": "Hello from Kubernetes storage\n"} {
				must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
			}
			manifest, err := os.ReadFile(filepath.Join("testdata/documented", name+".yaml"))
			must(t, err)
			manifest = bytes.ReplaceAll(manifest, []byte("/srv/documented"), []byte(dir))
			s.must(t, "create", "namespace", name)
			if out, errs, code := s.PodctlInput(bytes.NewReader(manifest), "apply", "-n", name, "-f", "-"); code != 0 {
				t.Fatalf("apply: %s%s", out, errs)
			}
			for _, d := range pods {
				s.documented(t, name, d)
			}
			s.must(t, "delete", "pods", "--all", "-n", name, "--now")
			s.must(t, "delete", "namespace", name)
		})
	}
	t.Cleanup(func() {
		s.must(t, "delete", "pv/task-pv-volume", "storageclass/scratch-storage-class", "--ignore-not-found")
	})
}

// documented waits for what a pod of the documentation is to show.
func (s *suite) documented(t *testing.T, namespace string, d documented) {
	t.Helper()
	if d.script == "" {
		s.must(t, "wait", "-n", namespace, "--for=jsonpath={.status.phase}=Succeeded", "pod/"+d.pod, "--timeout=100s")
	} else {
		s.must(t, "wait", "-n", namespace, "--for=condition=Ready", "pod/"+d.pod, "--timeout=100s")
	}
	eventually(t, func() error {
		var got string
		if d.script == "" {
			got = s.must(t, "logs", "-n", namespace, d.pod)
		} else {
			got = s.must(t, "exec", "-n", namespace, d.pod, "--", "sh", "-c", d.script)
		}
		got = dated.ReplaceAllString(strings.TrimSpace(got), "..DATE")
		if got != d.want {
			return fmt.Errorf("pod %s shows\n%s\nwant\n%s", d.pod, got, d.want)
		}
		return nil
	})
}

// documentedImages loads the images that the manifests name.
func (s *suite) documentedImages(t *testing.T) {
	t.Helper()
	image, err := ociimage.Busybox("", "/bin/busybox")
	must(t, err)
	image.Config = ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh", "-c", sleepScript}}
	var built []ociimage.Built
	for _, name := range documentedImages {
		image.Name = name
		b, err := image.Build()
		must(t, err)
		built = append(built, b)
	}
	var archive bytes.Buffer
	must(t, ociimage.WriteOCI(&archive, built...))
	if out, errs, code := s.PodctlInput(&archive, "image", "load", "-"); code != 0 {
		t.Fatalf("load images: %s%s", out, errs)
	}
}
