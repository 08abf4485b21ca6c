package main

import (
	"strings"
	"testing"
)

// TestElsewhere: what other tools have and podctl has not is answered by two lines: what is unknown, and what there is instead.
func TestElsewhere(t *testing.T) {
	serve(t)
	for args, want := range map[string]string{
		"create deployment x --image=y": `unknown command "deployment" for "podctl create"|podd runs pods, and has no controllers such as deployments: apply the pods themselves.`,
		"create cronjob x":              `unknown command "cronjob" for "podctl create"|podd has no clock for pods`,
		"create pod x":                  `unknown command "pod" for "podctl create"|podctl run x --image=IMAGE`,
		"kube play x.yaml":              `unknown command "kube" for "podctl"|podctl apply -f FILE makes`,
		"play kube x.yaml":              `unknown command "play" for "podctl"|podctl apply -f FILE makes`,
		"taint nodes x a=b:NoSchedule":  `unknown command "taint" for "podctl"|podctl edit node x: its taints`,
		"restart pod web":               `unknown command "restart" for "podctl"|podctl get pod web -o yaml`,
		"kustomize x":                   `unknown command "kustomize" for "podctl"|podctl apply -k`,
		"plugin list":                   `unknown command "plugin" for "podctl"|podctl has no plugins; kubectl has, and reaches podd with podctl kubeconfig.`,
		"config view":                   `unknown command "config" for "podctl"|podctl needs no kubeconfig; podctl kubeconfig prints one for kubectl and other clients.`,
		"build .":                       `unknown command "build" for "podctl"|podd builds no images`,
		"scale pod web --replicas=2":    `unknown command "scale" for "podctl"|podd runs pods, and has no controllers`,
		"rollout restart x":             `unknown command "rollout" for "podctl"|podd runs pods`,
		"expose pod x":                  `unknown command "expose" for "podctl"|podd routes no services`,
		"drain host":                    `unknown command "drain" for "podctl"|This host is the only node`,
		"cordon host":                   `unknown command "cordon" for "podctl"|podctl patch node host -p '{"spec":{"unschedulable":true}}'`,
		"get deployments":               `the server doesn't have a resource type "deployments"|podd runs pods, and has no controllers`,
		"get deploy/x":                  `the server doesn't have a resource type "deploy"|podd runs pods, and has no controllers`,
		"get deployments.apps":          `the server doesn't have a resource type "deployments"|podd runs pods`,
		"describe ingress x":            `the server doesn't have a resource type "ingress"|podd routes nothing into pods`,
		"get networkpolicies":           `the server doesn't have a resource type "networkpolicies"|podd has no network policies`,
		"delete job x":                  `the server doesn't have a resource type "job"|podd has no jobs: a pod with restartPolicy`,
		"ps -a":                         `unknown command "ps" for "podctl"|podctl get pods, with -A of all namespaces`,
		"run -d busybox":                `unknown shorthand flag: 'd' in -d|podctl run NAME --image=IMAGE [-- COMMAND] makes a pod and comes back`,
		"run busybox":                   `required flag(s) "image" not set|podctl run NAME --image=IMAGE`,
		"rmi x":                         `unknown command "rmi" for "podctl"|podctl image rm IMAGE`,
		"image prune":                   `unknown command "prune" for "podctl image"|podctl image ls, and podctl image rm`,
		"stop pod/web":                  `unknown command "stop" for "podctl"|podctl delete pod web. A pod is not stopped and started`,
		"start web":                     `unknown command "start" for "podctl"|podctl apply -f FILE.`,
		"kill -s HUP web":               `unknown command "kill" for "podctl"|podctl delete pod NAME --now`,
		"restart web":                   `unknown command "restart" for "podctl"|podctl get pod web -o yaml >FILE, podctl delete pod web, podctl apply -f FILE.`,
		"inspect web":                   `unknown command "inspect" for "podctl"|podctl describe pod web, or podctl get pod web -o yaml`,
		"up":                            `unknown command "up" for "podctl"|podctl apply -f FILE`,
		"compose up -d":                 `unknown command "compose" for "podctl"|podctl apply -f FILE`,
		"-n other ps":                   `unknown command "ps" for "podctl"|podctl get pods`,
	} {
		unknown, hint, _ := strings.Cut(want, "|")
		out, errOut, code := ask("", strings.Fields(args)...)
		said, got, _ := strings.Cut(errOut, "\n-> ")
		if said, _, _ = strings.Cut(said, "\nSee '"); code != 1 || out != "" || said != "error: "+unknown || !strings.HasPrefix(got, hint) || strings.Count(got, "\n") != 1 {
			t.Errorf("podctl %s: exit code %d\n%s%s", args, code, out, errOut)
		}
	}
	for _, args := range []string{"gett pods", "get nonsense", "run -f x.yaml --nope", "create nonsense", "get pods --nope", "image nonsense"} {
		if _, errOut, code := ask("", strings.Fields(args)...); code != 1 || strings.Contains(errOut, "->") {
			t.Errorf("podctl %s: exit code %d, %s", args, code, errOut)
		}
	}
	if _, errOut, _ := ask("", "get", "pods", "deployments"); strings.Contains(errOut, "->") { // a pod of that name
		t.Errorf("a pod's name: %s", errOut)
	}
}

// TestUnclear: where kubectl's message does not tell what to do, the next line does.
func TestUnclear(t *testing.T) {
	serve(t)
	if _, errOut, code := ask("", "run", "web", "--image=x"); code != 0 {
		t.Fatal(errOut)
	}
	for args, want := range map[string]string{
		"exec web":                            "podctl exec web -- COMMAND",
		"exec -it web":                        "podctl exec NAME -- COMMAND",
		"wait pod/web":                        "Say what for: --for=condition=Ready",
		"wait pod/web --for=ready":            "Say what for: --for=condition=Ready",
		"top web":                             "podctl top pod web, podctl top node",
		"events --for web":                    "podctl events --for pod/NAME",
		"label pod web x":                     "KEY=VALUE sets a label",
		"annotate pod web":                    "KEY=VALUE sets an annotation",
		"delete pods":                         "Name what is meant, or take all with --all",
		"patch pod web --subresource=x -p {}": "There is no such subresource. Pods have status, resize",
		"get pod web --subresource=x":         "There is no such subresource. Pods have status, resize",
		"run x --image=y -n nope":             "podctl create namespace nope makes it; podctl get namespaces shows",
		"create configmap x -n nope":          "podctl create namespace nope makes it; podctl get namespaces shows",
		"why -n nope":                         "podctl create namespace nope makes it; podctl get namespaces shows",
		"get namespace nope":                  "podctl get namespaces shows",
		"delete ns/nope":                      "podctl get namespaces shows",
		"exec -- ls":                          "podctl exec NAME -- COMMAND, or for a shell: podctl exec -it NAME -- sh; podctl get pods shows",
		"port-forward web":                    "A port is a number from 1 to 65535",
		"attach":                              "podctl attach NAME, or podctl attach -it NAME to type as well",
	} {
		if out, errOut, code := ask("", strings.Fields(args)...); code != 1 || out != "" || !strings.Contains(errOut, "\n-> "+want) || strings.Count(errOut, "->") != 1 {
			t.Errorf("podctl %s: exit code %d\n%s%s", args, code, out, errOut)
		}
	}
	p := &podctl{}
	p.root(nil)
	const badPort = `error: error parsing local port '99999': strconv.ParseUint: parsing "99999": value out of range`
	if said := p.elsewhere([]string{"port-forward", "web", "99999"}, badPort); !strings.HasPrefix(said, "error: '99999' is no port\n-> A port is a number from 1 to 65535") {
		t.Error(said)
	}
	for _, c := range [][3]string{ // of pods that run, as here is none
		{"port-forward web 80:x", "error: Pod 'web' does not have a named port 'x'", "The ports that have names are in spec.containers[].ports: podctl get pod web"},
		{"logs web", `Error from server (BadRequest): container "a" in pod "web" is waiting to start: ErrImagePull`, "What it waits for: podctl why web"},
		{"exec web -- zsh", `error: Internal error occurred: exec: "zsh": executable file not found in $PATH`, "The container has no such program. From another image beside it: podctl debug -it web --image=IMAGE"},
		{"exec web -- ls", "error: container a of pod web is not running", "Why it does not run: podctl why web"},
		{"attach web", "error: container a of pod web is not running", "Why it does not run: podctl why web"},
		{"logs -f web", "error: context deadline exceeded", "The container was waited for as long as --pod-running-timeout says."},
		{"port-forward web 0", "error: remote port must be > 0", "A port is a number from 1 to 65535"},
		{"top pod nope", `Error from server (NotFound): podmetrics.metrics.k8s.io "default/nope" not found`, "Only pods that run are measured"},
	} {
		if said := p.elsewhere(strings.Fields(c[0]), c[1]); !strings.HasPrefix(said, c[1]+"\n-> "+c[2]) {
			t.Errorf("podctl %s: %s", c[0], said)
		}
	}
	for _, args := range []string{"get pod nope", "get nope", "exec web ls", "exec nope -- ls", "patch pod nope -p {}"} { // is clear enough
		if _, errOut, code := ask("", strings.Fields(args)...); code != 1 || strings.Contains(errOut, "->") {
			t.Errorf("podctl %s: exit code %d, %s", args, code, errOut)
		}
	}
}

// TestMeantPod: the name of a pod in the place of a kind is answered with the command that has both.
func TestMeantPod(t *testing.T) {
	serve(t)
	for _, args := range []string{"create namespace other", "run web --image=x", "run deep -n other --image=x"} {
		if _, errOut, code := ask("", strings.Fields(args)...); code != 0 {
			t.Fatal(args, errOut)
		}
	}
	dotted := `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web.example"}, "spec": {"containers": [{"name": "app", "image": "x"}]}}`
	if _, errOut, code := ask(dotted, "apply", "-f", "-"); code != 0 {
		t.Fatal(errOut)
	}
	for args, want := range map[string]string{
		"delete web":             "podctl delete pod web",
		"delete --now web":       "podctl delete pod web",
		"get web -o yaml":        "podctl get pod web",
		"describe web":           "podctl describe pod web",
		"edit web":               "podctl edit pod web",
		"get web.example":        "podctl get pod web.example",
		"label web a=b":          "podctl label pod web ...",
		"wait web --for=delete":  "podctl wait pod web ...",
		"-n other describe deep": "podctl describe pod deep -n other",
		"describe deep":          "",
		"get web -n other":       "",
		"delete none":            "",
		"explain web":            "",
		"get po,web":             "",
	} {
		_, errOut, code := ask("", strings.Fields(args)...)
		if want != "" {
			want = "\n-> There is a pod of that name: " + want
		}
		if _, said, _ := strings.Cut(errOut, `doesn't have a resource type "`); code != 1 || said != strings.Split(said, `"`)[0]+`"`+want+"\n" {
			t.Errorf("podctl %s: exit code %d, %s", args, code, errOut)
		}
	}
}

// TestAlike: a pod or kind that is written nearly right is named, and so is the namespace in which there is a pod; of others nothing is said.
func TestAlike(t *testing.T) {
	serve(t)
	for _, args := range []string{"create namespace team", "run web --image=x", "run database --image=x", "run deep -n team --image=x"} {
		if _, errOut, code := ask("", strings.Fields(args)...); code != 0 {
			t.Fatal(args, errOut)
		}
	}
	for args, want := range map[string]string{
		"get pod wbe":            "", // two letters of three
		"get pod wweb":           "There is a pod web.",
		"delete pod databse":     "There is a pod database.",
		"logs datbase":           "There is a pod database.",
		"why databsae":           "There is a pod database.",
		"describe pod deep":      "There is a pod of that name in namespace team: -n team",
		"why deep":               "There is a pod of that name in namespace team: -n team",
		"exec deep -- ls":        "There is a pod of that name in namespace team: -n team",
		"logs pod web":           "logs takes the name of a pod alone: podctl logs web",
		"get podz":               "There are pods; podctl api-resources lists all kinds.",
		"get configmpas":         "There are configmaps; podctl api-resources lists all kinds.",
		"describe pod elsewhere": "",
		"get pod w":              "",
		"get nonsense":           "",
	} {
		_, errOut, code := ask("", strings.Fields(args)...)
		_, hint, _ := strings.Cut(errOut, "\n-> ")
		if code != 1 || strings.TrimSuffix(hint, "\n") != want || strings.Contains(errOut, "error: error") {
			t.Errorf("podctl %s: exit code %d, %s", args, code, errOut)
		}
	}
}

// TestOwnCommands: no command of podctl's own is said to be another tool's.
func TestOwnCommands(t *testing.T) {
	var p podctl
	for _, v := range p.verbs(nil) {
		if instead[v.name] != "" {
			t.Errorf("there is podctl %s: %s", v.name, instead[v.name])
		}
	}
}
