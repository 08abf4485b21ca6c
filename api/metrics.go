package api

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsinstall "k8s.io/metrics/pkg/apis/metrics/install"
	"k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"podd/api/usage"
)

func init() { metricsinstall.Install(legacyscheme.Scheme) }

// metrics is the group metrics.k8s.io.
func (s *Server) metrics() map[schema.GroupVersion]map[string]rest.Storage {
	return map[schema.GroupVersion]map[string]rest.Storage{
		v1beta1.SchemeGroupVersion: {"nodes": &nodeMetrics{server: s}, "pods": &podMetrics{server: s}},
	}
}

// podMetrics is what running pods use, measured when it is asked for.
type podMetrics struct{ server *Server }

var (
	_ rest.Getter               = (*podMetrics)(nil)
	_ rest.Lister               = (*podMetrics)(nil)
	_ rest.Scoper               = (*podMetrics)(nil)
	_ rest.SingularNameProvider = (*podMetrics)(nil)
)

func (*podMetrics) New() runtime.Object     { return &metrics.PodMetrics{} }
func (*podMetrics) NewList() runtime.Object { return &metrics.PodMetricsList{} }
func (*podMetrics) Destroy()                {}
func (*podMetrics) NamespaceScoped() bool   { return true }
func (*podMetrics) GetSingularName() string { return "pod" }

func (m *podMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	found, err := m.find(ctx, labels.Everything(), fields.OneTermEqualSelector("metadata.name", name))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, apierrors.NewNotFound(v1beta1.Resource("podmetrics"), request.NamespaceValue(ctx)+"/"+name)
	}
	return &found[0], nil
}

func (m *podMetrics) List(ctx context.Context, opts *internalversion.ListOptions) (runtime.Object, error) {
	label, field := selectors(opts)
	found, err := m.find(ctx, label, field)
	return &metrics.PodMetricsList{Items: found}, err
}

// selectors are those of a list; those that are not given let everything through.
func selectors(opts *internalversion.ListOptions) (labels.Selector, fields.Selector) {
	label, field := labels.Everything(), fields.Everything()
	if opts != nil && opts.LabelSelector != nil {
		label = opts.LabelSelector
	}
	if opts != nil && opts.FieldSelector != nil {
		field = opts.FieldSelector
	}
	return label, field
}

// find is what is selected of the namespace of ctx. A pod of which there is no rate yet is left out, as one of which
// nothing is known.
func (m *podMetrics) find(ctx context.Context, label labels.Selector, field fields.Selector) ([]metrics.PodMetrics, error) {
	snapshot, err := m.server.Runtime.Usage(ctx, usage.Want{Rates: true})
	if err != nil {
		return nil, statusOf(err)
	}
	namespace := request.NamespaceValue(ctx)
	found := []metrics.PodMetrics{}
	for i := range snapshot.Pods {
		p := &snapshot.Pods[i]
		if namespace != "" && p.Namespace != namespace || len(p.Containers) == 0 {
			continue
		}
		pod, ok := m.server.Store.Pod(p.Namespace, p.Name)
		if !ok || string(pod.UID) != p.UID || !label.Matches(labels.Set(pod.Labels)) ||
			!field.Matches(fields.Set{"metadata.name": p.Name, "metadata.namespace": p.Namespace}) {
			continue
		}
		if of, ok := podMetricsOf(p, pod, snapshot.At); ok {
			found = append(found, of)
		}
	}
	return found, nil
}

func podMetricsOf(p *usage.Pod, pod *v1.Pod, at time.Time) (metrics.PodMetrics, bool) {
	out := metrics.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.NewTime(at)},
		Timestamp:  metav1.NewTime(at),
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.CPU.Window == 0 {
			return out, false
		}
		out.Window = metav1.Duration{Duration: c.CPU.Window.Round(time.Millisecond)}
		out.Containers = append(out.Containers, metrics.ContainerMetrics{Name: c.Name, Usage: used(&c.Group)})
	}
	return out, true
}

func used(g *usage.Group) v1list {
	return v1list{
		"cpu":    *resource.NewScaledQuantity(int64(g.CPU.Rate*1e9), resource.Nano),
		"memory": *quantityOf(g.Memory.WorkingSet),
	}
}

// v1list has the keys of core/v1's resource lists.
type v1list = map[v1.ResourceName]resource.Quantity

func quantityOf(n uint64) *resource.Quantity {
	return resource.NewQuantity(int64(n), resource.BinarySI)
}

// ConvertToTable has the columns of metrics-server.
func (m *podMetrics) ConvertToTable(_ context.Context, obj runtime.Object, _ runtime.Object) (*metav1.Table, error) {
	table := newTable()
	row := func(p *metrics.PodMetrics) {
		cpu, memory := resource.Quantity{Format: resource.DecimalSI}, resource.Quantity{Format: resource.BinarySI}
		for _, c := range p.Containers {
			cpu.Add(*c.Usage.Cpu())
			memory.Add(*c.Usage.Memory())
		}
		addRow(table, p.Name, cpu, memory, p.Window, p)
	}
	switch o := obj.(type) {
	case *metrics.PodMetrics:
		row(o)
	case *metrics.PodMetricsList:
		for i := range o.Items {
			row(&o.Items[i])
		}
	}
	return table, nil
}

func newTable() *metav1.Table {
	return &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: "Name of the resource"},
		{Name: "cpu", Type: "string", Format: "quantity", Description: "Cores used, on average over the window"},
		{Name: "memory", Type: "string", Format: "quantity", Description: "Working set"},
		{Name: "Window", Type: "string", Format: "duration", Description: "Time over which the cpu was measured"},
	}}
}

func addRow(table *metav1.Table, name string, cpu, memory resource.Quantity, window metav1.Duration, obj runtime.Object) {
	table.Rows = append(table.Rows, metav1.TableRow{
		Cells: []any{name, cpu.String(), memory.String(), window.Duration.String()}, Object: runtime.RawExtension{Object: obj},
	})
}

// nodeMetrics is what this host uses.
type nodeMetrics struct{ server *Server }

var (
	_ rest.Getter               = (*nodeMetrics)(nil)
	_ rest.Lister               = (*nodeMetrics)(nil)
	_ rest.Scoper               = (*nodeMetrics)(nil)
	_ rest.SingularNameProvider = (*nodeMetrics)(nil)
)

func (*nodeMetrics) New() runtime.Object     { return &metrics.NodeMetrics{} }
func (*nodeMetrics) NewList() runtime.Object { return &metrics.NodeMetricsList{} }
func (*nodeMetrics) Destroy()                {}
func (*nodeMetrics) NamespaceScoped() bool   { return false }
func (*nodeMetrics) GetSingularName() string { return "node" }

func (m *nodeMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if name != m.server.NodeName {
		return nil, apierrors.NewNotFound(v1beta1.Resource("nodemetrics"), name)
	}
	return m.find(ctx)
}

func (m *nodeMetrics) List(ctx context.Context, opts *internalversion.ListOptions) (runtime.Object, error) {
	label, field := selectors(opts)
	found, err := m.find(ctx)
	if err != nil {
		return nil, err
	}
	list := &metrics.NodeMetricsList{Items: []metrics.NodeMetrics{}}
	if label.Matches(labels.Set(found.Labels)) && field.Matches(fields.Set{"metadata.name": found.Name}) {
		list.Items = append(list.Items, *found)
	}
	return list, nil
}

func (m *nodeMetrics) find(ctx context.Context) (*metrics.NodeMetrics, error) {
	snapshot, err := m.server.Runtime.Usage(ctx, usage.Want{Rates: true})
	if err != nil {
		return nil, statusOf(err)
	}
	node, err := m.server.node(ctx)
	if err != nil {
		return nil, err
	}
	at := metav1.NewTime(snapshot.At)
	return &metrics.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: at}, Timestamp: at,
		Window: metav1.Duration{Duration: snapshot.Node.CPU.Window.Round(time.Millisecond)}, Usage: used(&snapshot.Node.Group),
	}, nil
}

func (m *nodeMetrics) ConvertToTable(_ context.Context, obj runtime.Object, _ runtime.Object) (*metav1.Table, error) {
	table := newTable()
	nodes := []metrics.NodeMetrics{}
	switch o := obj.(type) {
	case *metrics.NodeMetrics:
		nodes = append(nodes, *o)
	case *metrics.NodeMetricsList:
		nodes = slices.Clone(o.Items)
	}
	for i := range nodes {
		n := &nodes[i]
		addRow(table, n.Name, *n.Usage.Cpu(), *n.Usage.Memory(), n.Window, n)
	}
	return table, nil
}
