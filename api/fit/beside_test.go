package fit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// read is a pod by its YAML.
func read(t *testing.T, text string) *v1.Pod {
	t.Helper()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}}
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return pod
}

func TestBeside(t *testing.T) {
	const (
		affinity = "node(s) didn't match pod affinity rules"
		anti     = "node(s) didn't match pod anti-affinity rules"
		existing = "node(s) didn't satisfy existing pods anti-affinity rules"
		spread   = "node(s) didn't match pod topology spread constraints"
		missing  = spread + " (missing required label)"
		web      = "metadata: {labels: {app: web}}"
	)
	namespaces := map[string]labels.Set{"default": {}, "blue": {"team": "blue"}}
	near := func(terms string) string {
		return "spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [" + terms + "]}}}"
	}
	apart := func(terms string) string {
		return "spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [" + terms + "]}}}"
	}
	even := func(constraint string) string {
		return web + "\nspec: {topologySpreadConstraints: [{whenUnsatisfiable: DoNotSchedule, " + constraint + "}]}"
	}
	const isWeb = "labelSelector: {matchLabels: {app: web}}"
	for name, tt := range map[string]struct {
		pod    string
		others []string
		want   string
	}{
		"nothing asked":        {"{}", []string{web}, ""},
		"no other":             {near("{topologyKey: host, " + isWeb + "}"), nil, affinity},
		"the other is here":    {near("{topologyKey: host, " + isWeb + "}"), []string{web}, ""},
		"another label":        {near("{topologyKey: host, " + isWeb + "}"), []string{"metadata: {labels: {app: db}}"}, affinity},
		"no such topology":     {near("{topologyKey: zone, " + isWeb + "}"), []string{web}, affinity},
		"first of its group":   {web + "\n" + near("{topologyKey: host, "+isWeb+"}"), nil, ""},
		"first, no topology":   {web + "\n" + near("{topologyKey: zone, "+isWeb+"}"), nil, affinity},
		"one other, all terms": {near("{topologyKey: host, " + isWeb + "}, {topologyKey: host, labelSelector: {matchLabels: {tier: a}}}"), []string{"metadata: {labels: {app: web, tier: a}}"}, ""},
		"two others, a term each": {near("{topologyKey: host, " + isWeb + "}, {topologyKey: host, labelSelector: {matchLabels: {tier: a}}}"),
			[]string{web, "metadata: {labels: {tier: a}}"}, affinity},
		"no selector":             {near("{topologyKey: host}"), []string{web}, affinity},
		"empty selector":          {near("{topologyKey: host, labelSelector: {}}"), []string{"{}"}, ""},
		"expression":              {near("{topologyKey: host, labelSelector: {matchExpressions: [{key: app, operator: In, values: [web, db]}]}}"), []string{web}, ""},
		"another namespace":       {near("{topologyKey: host, " + isWeb + "}"), []string{"metadata: {namespace: blue, labels: {app: web}}"}, affinity},
		"named namespace":         {near("{topologyKey: host, namespaces: [blue], " + isWeb + "}"), []string{"metadata: {namespace: blue, labels: {app: web}}"}, ""},
		"named, not its own":      {near("{topologyKey: host, namespaces: [blue], " + isWeb + "}"), []string{web}, affinity},
		"selected namespace":      {near("{topologyKey: host, namespaceSelector: {matchLabels: {team: blue}}, " + isWeb + "}"), []string{"metadata: {namespace: blue, labels: {app: web}}"}, ""},
		"not selected":            {near("{topologyKey: host, namespaceSelector: {matchLabels: {team: blue}}, " + isWeb + "}"), []string{web}, affinity},
		"selected or named":       {near("{topologyKey: host, namespaces: [default], namespaceSelector: {matchLabels: {team: blue}}, " + isWeb + "}"), []string{web}, ""},
		"every namespace":         {near("{topologyKey: host, namespaceSelector: {}, " + isWeb + "}"), []string{"metadata: {namespace: gone, labels: {app: web}}"}, ""},
		"of no namespace":         {near("{topologyKey: host, namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}, " + isWeb + "}"), []string{"metadata: {namespace: gone, labels: {app: web}}"}, affinity},
		"one that ends is here":   {near("{topologyKey: host, " + isWeb + "}"), []string{"metadata: {deletionTimestamp: '2026-01-01T00:00:00Z', labels: {app: web}}"}, ""},
		"preferred":               {"spec: {affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: host, " + isWeb + "}}]}}}", nil, ""},
		"apart":                   {apart("{topologyKey: host, " + isWeb + "}"), []string{web}, anti},
		"apart from itself":       {web + "\n" + apart("{topologyKey: host, "+isWeb+"}"), nil, ""},
		"apart from another":      {apart("{topologyKey: host, " + isWeb + "}"), []string{"{}"}, ""},
		"apart, any term":         {apart("{topologyKey: host, labelSelector: {matchLabels: {a: b}}}, {topologyKey: host, " + isWeb + "}"), []string{web}, anti},
		"apart, no topology":      {apart("{topologyKey: zone, " + isWeb + "}"), []string{web}, ""},
		"apart, one that ends":    {apart("{topologyKey: host, " + isWeb + "}"), []string{"metadata: {deletionTimestamp: '2026-01-01T00:00:00Z', labels: {app: web}}"}, anti},
		"the other is against it": {web, []string{apart("{topologyKey: host, " + isWeb + "}")}, existing},
		"the other, not here":     {web, []string{apart("{topologyKey: zone, " + isWeb + "}")}, ""},
		"the other, elsewhere":    {web, []string{"metadata: {namespace: blue}\n" + apart("{topologyKey: host, "+isWeb+"}")}, ""},
		"the other, everywhere":   {web, []string{"metadata: {namespace: blue}\n" + apart("{topologyKey: host, namespaceSelector: {}, "+isWeb+"}")}, existing},
		"the other, by team": {"metadata: {namespace: blue, labels: {app: web}}",
			[]string{apart("{topologyKey: host, namespaceSelector: {matchLabels: {team: blue}}, " + isWeb + "}")}, existing},
		"both against":         {web + "\n" + apart("{topologyKey: host, "+isWeb+"}"), []string{web + "\n" + apart("{topologyKey: host, "+isWeb+"}")}, anti},
		"affinity is told":     {"spec: {affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: host}]}, podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: host, labelSelector: {}}]}}}", []string{web}, affinity},
		"one domain":           {even("maxSkew: 1, topologyKey: host, " + isWeb), []string{web, web, web}, ""},
		"no label":             {even("maxSkew: 1, topologyKey: zone, " + isWeb), nil, missing},
		"anyway":               {"spec: {topologySpreadConstraints: [{whenUnsatisfiable: ScheduleAnyway, maxSkew: 1, topologyKey: zone}]}", nil, ""},
		"two domains":          {even("maxSkew: 1, minDomains: 2, topologyKey: host, " + isWeb), []string{web}, spread},
		"two, as first":        {even("maxSkew: 1, minDomains: 2, topologyKey: host, " + isWeb), nil, ""},
		"two, more skew":       {even("maxSkew: 2, minDomains: 2, topologyKey: host, " + isWeb), []string{web}, ""},
		"two, it is no match":  {even("maxSkew: 1, minDomains: 2, topologyKey: host, labelSelector: {matchLabels: {app: db}}"), []string{"metadata: {labels: {app: db}}"}, ""},
		"two, many matches":    {even("maxSkew: 1, minDomains: 2, topologyKey: host, labelSelector: {matchLabels: {app: db}}"), []string{"metadata: {labels: {app: db}}", "metadata: {labels: {app: db}}"}, spread},
		"two, no selector":     {even("maxSkew: 1, minDomains: 2, topologyKey: host"), []string{web, web}, ""},
		"two, empty selector":  {even("maxSkew: 1, minDomains: 2, topologyKey: host, labelSelector: {}"), []string{web, web}, ""},
		"two, other namespace": {even("maxSkew: 1, minDomains: 2, topologyKey: host, " + isWeb), []string{"metadata: {namespace: blue, labels: {app: web}}"}, ""},
		"two, one that ends":   {even("maxSkew: 1, minDomains: 2, topologyKey: host, " + isWeb), []string{"metadata: {deletionTimestamp: '2026-01-01T00:00:00Z', labels: {app: web}}"}, ""},
		"two, of a hash": {even("maxSkew: 1, minDomains: 2, topologyKey: host, matchLabelKeys: [app, none], labelSelector: {matchExpressions: [{key: app, operator: Exists}]}"),
			[]string{"metadata: {labels: {app: db}}"}, ""},
		"two, of the same hash": {even("maxSkew: 1, minDomains: 2, topologyKey: host, matchLabelKeys: [app, none], labelSelector: {matchExpressions: [{key: app, operator: Exists}]}"), []string{web}, spread},
	} {
		o := Others{Labels: map[string]string{"host": "this"}, Namespace: func(name string) (labels.Set, bool) { set, ok := namespaces[name]; return set, ok }}
		for _, other := range tt.others {
			o.Pods = append(o.Pods, read(t, other))
		}
		if got := Beside(read(t, tt.pod), o); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
