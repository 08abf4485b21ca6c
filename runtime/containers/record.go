package containers

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	v1 "k8s.io/api/core/v1"
)

// The labels of podd's containers. They are for finding; what else there is to know is in the extension. No label is
// ever copied from an image or from the pod's own labels and annotations.
const (
	labelUID  = "podd/uid"
	labelName = "podd/name" // "" = the sandbox
	labelPod  = "podd/pod"  // namespace/name, for people
)

// extension is the name of podd's record in a container, and its type.
const extension = "podd/record"

// record is what podd must know of a container to adopt it. Fields are only ever added.
type record struct {
	UID        string            `json:"uid"`
	Namespace  string            `json:"namespace"`
	Pod        string            `json:"pod"`
	Name       string            `json:"name,omitempty"`
	Attempt    int               `json:"attempt"`
	Sandbox    string            `json:"sandbox,omitempty"`
	Key        string            `json:"key,omitempty"`
	Image      string            `json:"image,omitempty"`
	ImageID    string            `json:"imageID,omitempty"`
	Ref        string            `json:"ref,omitempty"`
	Era        int               `json:"era,omitempty"`
	Boot       string            `json:"boot,omitempty"`
	Handler    string            `json:"handler,omitempty"`
	FirstID    uint32            `json:"firstID,omitempty"`
	Backoff    time.Duration     `json:"backoff,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
	Cgroup     string            `json:"cgroup,omitempty"`
	User       *v1.ContainerUser `json:"user,omitempty"`
	Spec       *v1.Pod           `json:"spec,omitempty"`

	Resources *v1.ResourceRequirements `json:"resources,omitempty"`
	Whole     *v1.ResourceRequirements `json:"whole,omitempty"`
}

func (r record) labels() map[string]string {
	return map[string]string{labelUID: r.UID, labelName: r.Name, labelPod: r.Namespace + "/" + r.Pod}
}

func (r record) extensions() (map[string]typeurl.Any, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record of %s: %w", r.Name, err)
	}
	return map[string]typeurl.Any{extension: &anypb.Any{TypeUrl: extension, Value: b}}, nil
}

// readRecord is what Ensure wrote. A container without a record is not podd's.
func readRecord(c containers.Container) (record, error) {
	var r record
	e := c.Extensions[extension]
	if e == nil {
		return r, fmt.Errorf("container %s: has no record of podd", c.ID)
	}
	if err := json.Unmarshal(e.GetValue(), &r); err != nil {
		return r, fmt.Errorf("container %s: read record: %w", c.ID, err)
	}
	return r, nil
}

func (r record) instance(c containers.Container) Instance {
	return Instance{
		ID: c.ID, UID: r.UID, Namespace: r.Namespace, Pod: r.Pod, Name: r.Name, Attempt: r.Attempt, Sandbox: r.Sandbox,
		Key: r.Key, Image: r.Image, ImageID: r.ImageID, Boot: r.Boot, Handler: r.Handler, Cgroup: r.Cgroup, Backoff: r.Backoff, User: r.User,
		CreatedAt: c.CreatedAt, StopSignal: r.StopSignal, PodSpec: r.Spec, Ref: r.Ref, Era: r.Era, Resources: r.Resources, Whole: r.Whole, FirstID: r.FirstID,
	}
}

// stopSignal is a signal that a spec or an image names, by name as unix.SignalNum knows it or else by number; SIGTERM if
// it names none or no real one.
func stopSignal(s string) string {
	n, err := signal.ParseSignal(s)
	if err != nil || n < 1 || n > 64 {
		return "SIGTERM"
	}
	if name := unix.SignalName(n); name != "" {
		return name
	}
	return strconv.Itoa(int(n))
}
