package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	noControllers = "podd runs pods, and has no controllers such as deployments: apply the pods themselves."
	noBuild       = "podd builds no images: build them elsewhere, save them as an archive, and podctl image load FILE."
	noCompose     = "podctl apply -f FILE makes what a Kubernetes manifest says, podctl run -f FILE for as long as it runs; podd reads no compose files."
	applyFile     = "podctl apply -f FILE makes what a manifest says, podctl delete -f FILE takes it away."
	listPods      = "podctl get pods, with -A of all namespaces: those that have ended are among them."
	noPush        = "podd pushes no images; podctl image pull IMAGE and podctl image load FILE bring them here."
	noNetworks    = "podd has one network for all pods; others are configured in cni/net.d in its configuration directory."
	noVolumes     = "Volumes are in the manifests of pods: podctl explain pod.spec.volumes. Kept ones: podctl get pvc,pv."
	noRoles       = "podd has no roles: whoever may open its socket may do everything. podctl kubeconfig --read-only is for those who only look."
	noStop        = "A pod is not stopped and started: it is deleted and applied."
)

// instead is what to do in place of the commands that people bring along from kubectl, docker and podman, where podctl has none
// of that name. NAME becomes what the command was given. What has a blank is a command and its first argument.
var instead = map[string]string{
	// kubectl's, about clusters and controllers
	"drain":        "This host is the only node. podctl delete pods --all -A empties it; cordon is podctl edit node.",
	"cordon":       `podctl patch node NAME -p '{"spec":{"unschedulable":true}}'`,
	"uncordon":     `podctl patch node NAME -p '{"spec":{"unschedulable":null}}'`,
	"taint":        "podctl edit node NAME: its taints are in spec.taints.",
	"scale":        noControllers,
	"autoscale":    noControllers,
	"rollout":      noControllers,
	"set":          noControllers + " podctl edit and podctl patch change objects.",
	"expose":       "podd routes no services. A hostPort of a container is reached from outside, podctl port-forward from here.",
	"proxy":        "podctl port-forward reaches pods; for the API take podd's socket, or podctl kubeconfig.",
	"config":       "podctl needs no kubeconfig; podctl kubeconfig prints one for kubectl and other clients.",
	"cluster-info": "podctl get nodes, podctl version and podctl doctor tell of this host.",
	"certificate":  "podd signs its own certificates: podctl kubeconfig gives one to you.",
	"plugin":       "podctl has no plugins; kubectl has, and reaches podd with podctl kubeconfig.",
	// docker's and podman's
	"ps":               listPods,
	"pod":              listPods,
	"pods":             listPods,
	"container":        listPods,
	"ls":               listPods,
	"list":             listPods,
	"status":           "podctl get pods, and podctl why tells of those that something is wrong with.",
	"stats":            "podctl top pod --containers",
	"info":             "podctl describe node, podctl version, podctl doctor",
	"system":           "podctl describe node, podctl doctor; unused images are removed by podctl image rm IMAGE.",
	"inspect":          "podctl describe pod NAME, or podctl get pod NAME -o yaml",
	"history":          "podctl why NAME tells what happened to a pod.",
	"port":             "podctl get pod NAME -o yaml has the ports of its containers; podctl port-forward NAME PORT reaches one from here.",
	"log":              "podctl logs NAME",
	"pull":             "podctl image pull IMAGE",
	"load":             "podctl image load FILE",
	"rmi":              "podctl image rm IMAGE",
	"push":             noPush,
	"login":            "podctl create secret docker-registry NAME makes credentials; spec.imagePullSecrets of a pod names them.",
	"search":           "podd asks registries for the images of pods only.",
	"tag":              "Images keep the names that they were pulled or loaded with.",
	"save":             noPush,
	"build":            noBuild,
	"commit":           noBuild,
	"rm":               "podctl delete pod NAME",
	"stop":             "podctl delete pod NAME. " + noStop,
	"down":             "podctl delete -f FILE",
	"kill":             "podctl delete pod NAME --now",
	"start":            "podctl apply -f FILE. " + noStop,
	"up":               noCompose,
	"compose":          noCompose,
	"kube":             applyFile,
	"play":             applyFile,
	"pause":            "podd pauses nothing: podctl delete pod NAME ends it.",
	"unpause":          "podd pauses nothing: podctl delete pod NAME ends it.",
	"restart":          "podctl get pod NAME -o yaml >FILE, podctl delete pod NAME, podctl apply -f FILE. One of a manifest file that podd follows comes back by itself.",
	"network":          noNetworks,
	"networks":         noNetworks,
	"volume":           noVolumes,
	"volumes":          noVolumes,
	"secret":           "podctl get secrets, podctl create secret",
	"nodes":            "podctl get nodes",
	"kustomize":        "podctl apply -k DIRECTORY; with --dry-run=client -o yaml it only prints.",
	"generate":         "podctl get pod NAME -o yaml",
	"healthcheck":      "podctl get pods shows which are ready, podctl why NAME why one is not; probes are in the manifest.",
	"rename":           "A pod keeps its name: podctl get pod NAME -o yaml >FILE, change it there, podctl apply -f FILE.",
	"auto-update":      "An image is pulled when a pod is made, by its imagePullPolicy.",
	"image prune":      "podctl image ls, and podctl image rm IMAGE for each that is not needed.",
	"image inspect":    "podctl image ls -o json",
	"image build":      noBuild,
	"image push":       noPush,
	"image save":       noPush,
	"image tag":        "Images keep the names that they were pulled or loaded with.",
	"create container": "podctl run NAME --image=IMAGE",
	"create pod":       "podctl run NAME --image=IMAGE, or podctl create -f FILE",
	"create volume":    noVolumes,
}

// unclear are messages of kubectl's commands that do not tell what to do, and that. NAME becomes what the command was given first.
var unclear = []struct{ command, words, hint string }{
	{"get", "couldn't find any field with path ", "--sort-by takes the path of a field, such as .metadata.name or .status.startTime: podctl explain shows which there are."},
	{"exec", "must specify at least one command", "podctl exec NAME -- COMMAND, or for a shell: podctl exec -it NAME -- sh"},
	{"wait", "unrecognized condition: ", "Say what for: --for=condition=Ready, --for=delete, --for=create or --for=jsonpath='{.status.phase}'=Succeeded."},
	{"port-forward", " is no port", aPort},
	{"port-forward", "list of ports are required", aPort},
	{"port-forward", "does not have a named port", "The ports that have names are in spec.containers[].ports: podctl get pod NAME -o yaml. One that is not there is given by its number."},
	{"exec", "executable file not found", "The container has no such program. From another image beside it: podctl debug -it NAME --image=IMAGE"},
	{"exec", " is not running", "Why it does not run: podctl why NAME"},
	{"attach", " is not running", "Why it does not run: podctl why NAME"},
	{"exec", "pod, type/name or --filename must be specified", "podctl exec NAME -- COMMAND, or for a shell: podctl exec -it NAME -- sh; podctl get pods shows which there are."},
	{"attach", "at least 1 argument is required", "podctl attach NAME, or podctl attach -it NAME to type as well; podctl get pods shows which there are."},
	{"logs", "context deadline exceeded", "The container was waited for as long as --pod-running-timeout says. What it waits for: podctl why NAME"},
	{"logs", "is waiting to start", "What it waits for: podctl why NAME"},
	{"logs", " never ran", "Why it did not: podctl why NAME"},
	{"port-forward", "port must be > 0", aPort},
	{"top", `unknown command "`, "podctl top pod NAME, podctl top node"},
	{"top", "podmetrics.metrics.k8s.io ", "Only pods that run are measured: podctl get pods shows which do, also of other namespaces with -A."},
	{"events", "--for must be in resource/name form", "podctl events --for pod/NAME"},
	{"label", "at least one label update is required", "KEY=VALUE sets a label, KEY- takes it away."},
	{"annotate", "at least one annotation update is required", "KEY=VALUE sets an annotation, KEY- takes it away."},
	{"delete", "no name was specified", noName},
	{"label", "no name was specified", noName},
	{"annotate", "no name was specified", noName},
}

const noName = "Name what is meant, or take all with --all, or those with a label with -l KEY=VALUE."

const aPort = "A port is a number from 1 to 65535, or the name of a port of a container: podctl port-forward NAME [LOCAL:]REMOTE"

// unserved is what there is instead of kinds of objects that podd does not serve, by all of their names.
var unserved = func() map[string]string {
	all := map[string]string{}
	for names, hint := range map[string]string{
		"deployment deploy replicaset rs replicationcontroller rc statefulset sts daemonset ds horizontalpodautoscaler hpa": noControllers,
		"job":        "podd has no jobs: a pod with restartPolicy OnFailure or Never is one. podctl run -f FILE waits for its end.",
		"cronjob cj": "podd has no clock for pods: a timer of the host can podctl run -f FILE.",
		"ingress ing ingressclass gateway httproute":                    "podd routes nothing into pods but the hostPort of a container.",
		"networkpolicy netpol":                                          "podd has no network policies: pods reach each other.",
		"poddisruptionbudget pdb quota resourcequota limitrange limits": "podd has none of these; the limits of pods and the room of this host hold.",
		"role rolebinding clusterrole clusterrolebinding":               noRoles,
		"certificatesigningrequest csr":                                 "podd signs its own certificates: podctl kubeconfig gives one to you.",
		"container":                                                     "podctl get pods; podctl describe pod NAME shows the containers of one.",
		"image":                                                         "podctl image ls",
		"volume":                                                        noVolumes,
	} {
		for _, name := range strings.Fields(names) {
			all[name], all[name+"s"] = hint, hint
			all[strings.TrimSuffix(name, "y")+"ies"], all[name+"es"] = hint, hint
		}
	}
	return all
}()

var (
	noPort      = regexp.MustCompile(`error parsing (?:local|remote) port '([^']*)': .*`)
	missingPod  = regexp.MustCompile(`(?:pods "|there is no pod )([^" ]+)(?:" not found| in namespace )`)
	namedPod    = regexp.MustCompile(`\bpod "([^"]+)"`)
	noNamespace = regexp.MustCompile(`namespaces "([^"]+)" not found`)
	unknownKind = regexp.MustCompile(`doesn't have a resource type "([^"]*)"`)
	wrongFlags  = regexp.MustCompile(`^error: (unknown (shorthand )?flag: |required flag\(s\) "image" not set)`)
	notACommand = regexp.MustCompile(`^error: (unknown command "|unknown (shorthand )?flag: |Unexpected args: )`)
)

// elsewhere is message about args with what podctl has instead, where they are what other tools take.
func (p *podctl) elsewhere(args []string, message string) string {
	if kind := unknownKind.FindStringSubmatch(message); kind != nil {
		name, _, _ := strings.Cut(strings.ToLower(kind[1]), ".")
		return advise(message, cmp.Or(unserved[name], p.meantPod(args, kind[1]), meantKind(name)), nil)
	}
	name, rest := target(args, p.client.flags)
	first, after := target(rest, p.client.flags)
	if name == "port-forward" {
		message = noPort.ReplaceAllString(message, "'$1' is no port")
	}
	if missing := noNamespace.FindStringSubmatch(message); missing != nil {
		return advise(message, namespaceHint(first, missing[1]), nil)
	}
	if missing := missingPod.FindStringSubmatch(message); missing != nil {
		message = strings.Replace(message, "error: error from server", "Error from server", 1)
		return advise(message, p.likePod(name, missing[1], after), nil)
	}
	for _, u := range unclear {
		if u.command == name && strings.Contains(message, u.words) {
			if pod := namedPod.FindStringSubmatch(message); pod != nil { // before which args may have flags
				rest = pod[1:]
			}
			return advise(message, u.hint, rest)
		}
	}
	switch {
	case strings.Contains(message, "could not find the requested resource") && slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--subresource") }):
		return advise(message, "There is no such subresource. Pods have status, resize and ephemeralcontainers, most other kinds status.", nil)
	case name == "run" && wrongFlags.MatchString(message) && !manifests(args):
		return advise(message, "podctl run NAME --image=IMAGE [-- COMMAND] makes a pod and comes back; with -it it stays with it. All else is in a manifest: podctl apply -f FILE", nil)
	case !notACommand.MatchString(message):
		return message
	case name == "create" && unserved[first] != "":
		return advise(`error: unknown command "`+first+`" for "podctl create"`, unserved[first], nil)
	case instead[name+" "+first] != "":
		return advise(`error: unknown command "`+first+`" for "podctl `+name+`"`, instead[name+" "+first], after)
	case instead[name] != "" && strings.HasPrefix(message, `error: unknown command "`+name+`" `):
		line, _, _ := strings.Cut(message, "\n") // what is written like it is not what is meant
		return advise(line, instead[name], rest)
	}
	return message
}

// likePod is what to do where there is no pod of a name: there is one in another namespace, or one that is called nearly so. after is
// what a command was given behind what it took for the name; "" if there is nothing to say.
func (p *podctl) likePod(verb, missing string, after []string) string {
	if objectKinds[missing] && len(after) > 0 && !strings.HasPrefix(after[0], "-") {
		return verb + " takes the name of a pod alone: podctl " + verb + " " + after[0]
	}
	if verb == "" { // nothing was asked
		return ""
	}
	namespace, _, err := p.client.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return ""
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	res, err := p.client.request(ctx, http.MethodGet, "/api/v1/pods", nil, nil)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	var list metav1.PartialObjectMetadataList
	if json.NewDecoder(res.Body).Decode(&list) != nil {
		return ""
	}
	var here []string
	for _, pod := range list.Items {
		switch {
		case pod.Namespace == namespace:
			here = append(here, pod.Name)
		case pod.Name == missing:
			return "There is a pod of that name in namespace " + pod.Namespace + ": -n " + pod.Namespace
		}
	}
	if name := alike(missing, here); name != "" {
		return "There is a pod " + name + "."
	}
	return ""
}

// meantKind is what to do about a kind that is written nearly like one that there is.
func meantKind(typed string) string {
	if name := alike(typed, slices.Concat(slices.Collect(maps.Values(shortNames)), []string{"secrets", "persistentvolumes", "persistentvolumeclaims", "storageclasses", "runtimeclasses", "priorityclasses"})); name != "" {
		return "There are " + name + "; podctl api-resources lists all kinds."
	}
	return ""
}

// alike is which of names is written nearly like typed, by cobra's measure; "" if none is.
func alike(typed string, names []string) string {
	const short = 5 // letters: of fewer one may be wrong, and of these two
	of := cobra.Command{SuggestionsMinimumDistance: 2}
	if len(typed) < short {
		of.SuggestionsMinimumDistance = 1
	}
	slices.Sort(names)
	for _, name := range names {
		if len(typed) > 2 {
			of.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
		}
	}
	if found := of.SuggestionsFor(typed); len(found) > 0 {
		return found[0]
	}
	return ""
}

// namespaceHint is what to do about a namespace that is not there. kind is what a command was given first: where it is about namespaces
// nobody wants to have that one.
func namespaceHint(kind, missing string) string {
	kind, _, _ = strings.Cut(kind, "/")
	if kind == "namespace" || kind == "namespaces" || kind == "ns" {
		return "podctl get namespaces shows which there are."
	}
	return "podctl create namespace " + missing + " makes it; podctl get namespaces shows which there are."
}

// kindFirst are the commands that take the kind of an object before its name; those with true may need more after it.
var kindFirst = map[string]bool{"get": false, "describe": false, "delete": false, "edit": false, "label": true, "annotate": true, "patch": true, "wait": true}

// meantPod is what to do instead where args have the name of a pod in the place of a kind; "" if there is no pod of that name.
func (p *podctl) meantPod(args []string, kind string) string {
	verb, _ := target(args, p.client.flags)
	more, ok := kindFirst[verb]
	i := slices.IndexFunc(args, func(arg string) bool { return arg == kind || strings.HasPrefix(arg, kind+".") }) // the kind is what is before a dot
	if !ok || i < 0 || len(validation.IsDNS1123Subdomain(args[i])) > 0 {
		return ""
	}
	namespace, _, err := p.client.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return ""
	}
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	res, err := p.client.request(ctx, http.MethodGet, "/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods/"+args[i], nil, nil)
	if err != nil {
		return ""
	}
	_ = res.Body.Close()
	command := "podctl " + verb + " pod " + args[i]
	if namespace != metav1.NamespaceDefault {
		command += " -n " + namespace
	}
	if more {
		command += " ..."
	}
	return "There is a pod of that name: " + command
}

// manifests tells whether run is asked to run those.
func manifests(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		return strings.HasPrefix(arg, "-f") || strings.HasPrefix(arg, "-k") || strings.HasPrefix(arg, "--filename") || strings.HasPrefix(arg, "--kustomize")
	})
}

var objectKinds = map[string]bool{"node": true, "nodes": true, "no": true, "pod": true, "pods": true, "po": true}

// advise adds a hint to message, for the pod that args begin with.
func advise(message, hint string, args []string) string {
	if hint == "" {
		return message
	}
	if len(args) > 1 && objectKinds[args[0]] { // docker's commands take a name, kubectl's may have the kind before it
		args = args[1:]
	}
	if len(args) > 0 {
		name := args[0][strings.LastIndexByte(args[0], '/')+1:]
		if len(validation.IsDNS1123Subdomain(name)) == 0 {
			hint = strings.ReplaceAll(hint, "NAME", name)
		}
	}
	return cmp.Or(strings.TrimSuffix(message, "\n"), "error") + "\n-> " + hint
}
