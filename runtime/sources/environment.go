package sources

import (
	"context"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/api/v1/resource"
	"k8s.io/kubernetes/pkg/apis/core/pods"
	"k8s.io/kubernetes/pkg/fieldpath"
	"k8s.io/kubernetes/pkg/kubelet/envvars"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// Environment is the variables of one container of a pod, each name once: those of services, over them what envFrom
// names, over both env in its order (pkg/kubelet/kubelet_pods.go makeEnvironmentVariables).
func Environment(ctx context.Context, o Objects, h Host, pod *v1.Pod, c *v1.Container) ([]v1.EnvVar, error) {
	services, err := serviceVariables(o, pod)
	if err != nil {
		return nil, err
	}
	e := environment{objects: o, host: h, pod: pod, container: c, own: variables{at: map[string]int{}}}
	for i := range c.EnvFrom {
		if err := e.from(&c.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	expand := func(name string) string {
		if i, ok := e.own.at[name]; ok {
			return e.own.list[i].Value
		}
		if value, ok := services[name]; ok {
			return value
		}
		return "$(" + name + ")"
	}
	for i := range c.Env {
		v := &c.Env[i]
		switch {
		case v.Value != "":
			e.own.set(v.Name, expansion.Expand(v.Value, expand))
		case v.ValueFrom == nil:
			e.own.set(v.Name, "")
		default:
			value, there, err := e.valueFrom(ctx, v.ValueFrom)
			if err != nil {
				return nil, err
			}
			if there {
				e.own.set(v.Name, value)
			}
		}
	}
	all := variables{at: map[string]int{}}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, own := e.own.at[name]; !own {
			all.set(name, services[name])
		}
	}
	return append(all.list, e.own.list...), nil
}

// variables is a list in which each name is once, with its last value.
type variables struct {
	list []v1.EnvVar
	at   map[string]int
}

func (v *variables) set(name, value string) {
	if i, ok := v.at[name]; ok {
		v.list[i].Value = value
		return
	}
	v.at[name] = len(v.list)
	v.list = append(v.list, v1.EnvVar{Name: name, Value: value})
}

// environment is one that is being put together.
type environment struct {
	objects   Objects
	host      Host
	pod       *v1.Pod
	container *v1.Container
	own       variables // all but those of services

	files     map[[2]string]*envFile // by volume and path
	fileBytes int                    // of them
}

// from adds all that an object has. Of a ConfigMap that is its text: binaryData has no variables.
func (e *environment) from(f *v1.EnvFromSource) error {
	switch {
	case f.ConfigMapRef != nil:
		m, err := e.objects.ConfigMap(e.pod.Namespace, f.ConfigMapRef.Name)
		if absent(err, f.ConfigMapRef.Optional) {
			return nil
		}
		if err != nil {
			return notFound(err, Ref{ConfigMap, f.ConfigMapRef.Name})
		}
		for _, key := range slices.Sorted(maps.Keys(m.Data)) {
			e.own.set(f.Prefix+key, m.Data[key])
		}
	case f.SecretRef != nil:
		s, err := e.objects.Secret(e.pod.Namespace, f.SecretRef.Name)
		if absent(err, f.SecretRef.Optional) {
			return nil
		}
		if err != nil {
			return notFound(err, Ref{Secret, f.SecretRef.Name})
		}
		for _, key := range slices.Sorted(maps.Keys(s.Data)) {
			e.own.set(f.Prefix+key, string(s.Data[key]))
		}
	}
	return nil
}

// valueFrom is the value that a reference leads to. Where it is optional and leads nowhere there is none.
func (e *environment) valueFrom(ctx context.Context, s *v1.EnvVarSource) (value string, there bool, err error) {
	switch {
	case s.FieldRef != nil:
		value, err = e.field(s.FieldRef)
		return value, true, err
	case s.ResourceFieldRef != nil:
		value, err = e.resource(s.ResourceFieldRef)
		return value, true, err
	case s.ConfigMapKeyRef != nil:
		return e.configMapKey(s.ConfigMapKeyRef)
	case s.SecretKeyRef != nil:
		return e.secretKey(s.SecretKeyRef)
	case s.FileKeyRef != nil:
		return e.fileKey(ctx, s.FileKeyRef)
	}
	return "", true, nil
}

func (e *environment) configMapKey(ref *v1.ConfigMapKeySelector) (string, bool, error) {
	m, err := e.objects.ConfigMap(e.pod.Namespace, ref.Name)
	if absent(err, ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, notFound(err, Ref{ConfigMap, ref.Name})
	}
	value, ok := m.Data[ref.Key]
	if !ok && !isTrue(ref.Optional) {
		return "", false, unresolved("couldn't find key %v in ConfigMap %v/%v", ref.Key, e.pod.Namespace, ref.Name)
	}
	return value, ok, nil
}

func (e *environment) secretKey(ref *v1.SecretKeySelector) (string, bool, error) {
	s, err := e.objects.Secret(e.pod.Namespace, ref.Name)
	if absent(err, ref.Optional) {
		return "", false, nil
	}
	if err != nil {
		return "", false, notFound(err, Ref{Secret, ref.Name})
	}
	value, ok := s.Data[ref.Key]
	if !ok && !isTrue(ref.Optional) {
		return "", false, unresolved("couldn't find key %v in Secret %v/%v", ref.Key, e.pod.Namespace, ref.Name)
	}
	return string(value), ok, nil
}

// field is a field of the pod (podFieldSelectorRuntimeValue).
func (e *environment) field(ref *v1.ObjectFieldSelector) (string, error) {
	path, _, err := pods.ConvertDownwardAPIFieldLabel(ref.APIVersion, ref.FieldPath, "")
	if err != nil {
		return "", unresolved("%v", err)
	}
	first := func(ips []string) string { return strings.Join(ips[:min(1, len(ips))], "") }
	switch path {
	case "spec.nodeName":
		return e.pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return e.pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(e.host.HostIPs), nil
	case "status.hostIPs":
		return strings.Join(e.host.HostIPs, ","), nil
	case "status.podIP":
		return first(e.host.PodIPs), nil
	case "status.podIPs":
		return strings.Join(e.host.PodIPs, ","), nil
	}
	return metadata(e.pod, path)
}

func metadata(pod *v1.Pod, path string) (string, error) {
	value, err := fieldpath.ExtractFieldPathAsString(pod, path)
	if err != nil {
		return "", unresolved("%v", err)
	}
	return value, nil
}

// resource is a request or a limit of a container. A limit that there is not is the pod's, or else what the node has
// (pkg/kubelet/kubelet_resources.go).
func (e *environment) resource(ref *v1.ResourceFieldSelector) (string, error) {
	allocatable := e.host.Allocatable.DeepCopy()
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if limit, ok := podLimits(e.pod)[name]; ok && !limit.IsZero() && allocatable != nil {
			allocatable[name] = limit
		}
	}
	c := e.container
	if name := ref.ContainerName; name != "" && name != c.Name {
		return containerResource(ref, e.pod, name, allocatable)
	}
	return resourceOf(ref, c, allocatable)
}

func podLimits(pod *v1.Pod) v1.ResourceList {
	if !resourcehelper.IsPodLevelLimitsSet(pod) {
		return nil
	}
	return pod.Spec.Resources.Limits
}

func resourceOf(ref *v1.ResourceFieldSelector, c *v1.Container, allocatable v1.ResourceList) (string, error) {
	c = c.DeepCopy()
	resource.MergeContainerResourceLimits(c, allocatable)
	value, err := resource.ExtractContainerResourceValue(ref, c)
	if err != nil {
		return "", unresolved("%v", err)
	}
	return value, nil
}

func containerResource(ref *v1.ResourceFieldSelector, pod *v1.Pod, name string, allocatable v1.ResourceList) (string, error) {
	value, err := resource.ExtractResourceValueByContainerNameAndNodeAllocatable(ref, pod, name, allocatable)
	if err != nil {
		return "", unresolved("%v", err)
	}
	return value, nil
}

// serviceVariables are those of the services with a cluster IP: of the pod's namespace, unless it does not want them, and
// always of the service kubernetes of the namespace default (getServiceEnvVarMap).
func serviceVariables(o Objects, pod *v1.Pod) (map[string]string, error) {
	const api = "kubernetes"
	found := map[string]*v1.Service{}
	fromDefault, err := o.Services(metav1.NamespaceDefault)
	if err != nil {
		return nil, err
	}
	for _, s := range fromDefault {
		if s.Name == api {
			found[api] = s
		}
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		own, err := o.Services(pod.Namespace)
		if err != nil {
			return nil, err
		}
		for _, s := range own {
			found[s.Name] = s
		}
	}
	var services []*v1.Service
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if len(found[name].Spec.Ports) > 0 {
			services = append(services, found[name])
		}
	}
	out := map[string]string{}
	for _, v := range envvars.FromServices(services) {
		out[v.Name] = v.Value
	}
	return out, nil
}
