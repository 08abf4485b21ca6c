package sources

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// File is one file of a volume.
type File struct {
	Data  []byte
	Mode  uint32 // permissions
	Owner *int64 // user, if it is to be another than root
}

// Content is what a volume consists of.
type Content struct {
	Files map[string]File // by path below the volume's root
	Due   time.Time       // when it has to be made again though no source has changed; zero is never
}

// IsContent tells whether podd fills a volume.
func IsContent(v *v1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// Files is the content of a volume that podd fills. An error is *Unresolved if it is for sources, and not for instance of
// a token that could not be made.
func Files(ctx context.Context, o Objects, h Host, pod *v1.Pod, vol *v1.Volume) (Content, error) {
	c := collector{objects: o, host: h, pod: pod, content: Content{Files: map[string]File{}}}
	var err error
	switch {
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		err = c.configMap(s.Name, s.Items, s.DefaultMode, s.Optional)
	case vol.Secret != nil:
		s := vol.Secret
		err = c.secret(s.SecretName, s.Items, s.DefaultMode, s.Optional)
	case vol.DownwardAPI != nil:
		err = c.downward(vol.DownwardAPI.Items, vol.DownwardAPI.DefaultMode)
	case vol.Projected != nil:
		err = c.projected(ctx, vol.Projected)
	default:
		err = fmt.Errorf("is of a kind that podd does not fill")
	}
	if err == nil {
		err = checkPaths(c.content.Files)
	}
	return c.content, err
}

// collector gathers the files of one volume.
type collector struct {
	objects Objects
	host    Host
	pod     *v1.Pod
	content Content
}

// projected is all sources, of which a later one stands over an earlier one at the same path; their errors come together
// (pkg/volume/projected).
func (c *collector) projected(ctx context.Context, p *v1.ProjectedVolumeSource) error {
	var wrong []error
	for i := range p.Sources {
		var err error
		switch s := &p.Sources[i]; {
		case s.ConfigMap != nil:
			err = c.configMap(s.ConfigMap.Name, s.ConfigMap.Items, p.DefaultMode, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = c.secret(s.Secret.Name, s.Secret.Items, p.DefaultMode, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = c.downward(s.DownwardAPI.Items, p.DefaultMode)
		case s.ServiceAccountToken != nil:
			err = c.token(ctx, s.ServiceAccountToken, p.DefaultMode)
		default:
			err = unresolved("source %d is of a kind that podd does not know", i)
		}
		if err != nil {
			wrong = append(wrong, err)
		}
	}
	return together(wrong)
}

// together is one error for several. It is *Unresolved if all of them are.
func together(wrong []error) error {
	if len(wrong) < 2 {
		return utilerrors.Reduce(utilerrors.NewAggregate(wrong))
	}
	all := utilerrors.NewAggregate(wrong)
	for _, err := range wrong {
		if _, ok := err.(*Unresolved); !ok {
			return all
		}
	}
	return unresolved("%v", all)
}

func (c *collector) configMap(name string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	m, err := c.objects.ConfigMap(c.pod.Namespace, name)
	switch {
	case absent(err, optional):
		m = &v1.ConfigMap{}
	case err != nil:
		return notFound(err, Ref{ConfigMap, name})
	}
	data := make(map[string][]byte, len(m.Data)+len(m.BinaryData))
	maps.Copy(data, m.BinaryData)
	for key, text := range m.Data {
		data[key] = []byte(text)
	}
	return c.keys(data, items, mode, optional, fmt.Sprintf("configmap %q: references non-existent config key", name))
}

func (c *collector) secret(name string, items []v1.KeyToPath, mode *int32, optional *bool) error {
	s, err := c.objects.Secret(c.pod.Namespace, name)
	switch {
	case absent(err, optional):
		s = &v1.Secret{}
	case err != nil:
		return notFound(err, Ref{Secret, name})
	}
	return c.keys(s.Data, items, mode, optional, fmt.Sprintf("secret %q: references non-existent secret key", name))
}

// keys adds a file for each key, or for those that items name (MakePayload of pkg/volume/configmap and secret). missing is
// what to say of those that are not there, all of them, where upstream names the first.
func (c *collector) keys(data map[string][]byte, items []v1.KeyToPath, mode *int32, optional *bool, missing string) error {
	if len(items) == 0 {
		for key, value := range data {
			c.content.Files[key] = File{Data: value, Mode: modeOf(nil, mode)}
		}
		return nil
	}
	var lacks []string
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok && isTrue(optional) {
			continue
		}
		if !ok {
			lacks = append(lacks, item.Key)
			continue
		}
		c.content.Files[path.Clean(item.Path)] = File{Data: value, Mode: modeOf(item.Mode, mode)}
	}
	if len(lacks) > 0 {
		return unresolved("%s: %s", missing, strings.Join(lacks, ", "))
	}
	return nil
}

// modeOf is the mode of an item, else that of its volume.
func modeOf(own, all *int32) uint32 {
	switch {
	case own != nil:
		return uint32(*own) & 0o777
	case all != nil:
		return uint32(*all) & 0o777
	}
	return uint32(v1.ConfigMapVolumeSourceDefaultMode)
}

// downward adds files with fields of the pod (CollectData of pkg/volume/downwardapi).
func (c *collector) downward(items []v1.DownwardAPIVolumeFile, mode *int32) error {
	var wrong []error
	for i := range items {
		item := &items[i]
		value, err := c.downwardValue(item)
		if err != nil {
			wrong = append(wrong, err)
		}
		c.content.Files[path.Clean(item.Path)] = File{Data: []byte(value), Mode: modeOf(item.Mode, mode)}
	}
	return together(wrong)
}

func (c *collector) downwardValue(item *v1.DownwardAPIVolumeFile) (string, error) {
	switch {
	case item.FieldRef != nil:
		return metadata(c.pod, item.FieldRef.FieldPath)
	case item.ResourceFieldRef != nil:
		return containerResource(item.ResourceFieldRef, c.pod, item.ResourceFieldRef.ContainerName, c.host.Allocatable)
	}
	return "", nil
}

const (
	defaultExpiry = time.Hour // of a token whose source does not say
	oldest        = 24 * time.Hour
	tokenJitter   = 10 * time.Second // at most
)

// token adds a service account token. It is the pod's alone: mode 0600 where the pod says who owns its files
// (pkg/volume/projected). It has to be made again when four fifths of its time are over, and once a day
// (pkg/kubelet/token).
func (c *collector) token(ctx context.Context, s *v1.ServiceAccountTokenProjection, mode *int32) error {
	if c.host.Tokens == nil {
		return fmt.Errorf("service account tokens are not served")
	}
	expiry := defaultExpiry
	if s.ExpirationSeconds != nil {
		expiry = time.Duration(*s.ExpirationSeconds) * time.Second
	}
	made := time.Now()
	token, expires, err := c.host.Tokens.Token(ctx, c.pod, s.Audience, expiry)
	if err != nil {
		return fmt.Errorf("token of service account %s: %w", c.pod.Spec.ServiceAccountName, err)
	}
	file := File{Data: []byte(token), Mode: modeOf(nil, mode), Owner: owner(c.pod)}
	if security := c.pod.Spec.SecurityContext; file.Owner != nil || security != nil && security.FSGroup != nil {
		file.Mode = 0o600
	}
	c.content.Files[path.Clean(s.Path)] = file
	due := made.Add(min(expires.Sub(made)*4/5, oldest) - rand.N(tokenJitter))
	if c.content.Due.IsZero() || due.Before(c.content.Due) {
		c.content.Due = due
	}
	return nil
}

// owner is the user that all containers of the pod run as, nil if they differ or do not say
// (pkg/volume/util FsUserFrom).
func owner(pod *v1.Pod) *int64 {
	var all *int64
	own := func(s *v1.SecurityContext) bool {
		var user *int64
		if pod.Spec.SecurityContext != nil {
			user = pod.Spec.SecurityContext.RunAsUser
		}
		if s != nil && s.RunAsUser != nil {
			user = s.RunAsUser
		}
		if user == nil || all != nil && *all != *user {
			return false
		}
		all = user
		return true
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if !own(c.SecurityContext) {
			return nil
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if !own(c.SecurityContext) {
			return nil
		}
	}
	return all
}

// checkPaths refuses what cannot be one tree below a directory whose names with two dots are podd's own
// (pkg/volume/util/atomic_writer.go validatePath).
func checkPaths(files map[string]File) error {
	for _, p := range slices.Sorted(maps.Keys(files)) {
		names := strings.Split(p, "/")
		switch {
		case p == "" || p == "." || path.IsAbs(p) || len(p) > 4096 || strings.HasPrefix(p, ".."):
			return unresolved("invalid path: %q", p)
		case slices.ContainsFunc(names, func(name string) bool { return name == ".." || len(name) > 255 || strings.ContainsRune(name, 0) }):
			return unresolved("invalid path: %q", p)
		}
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if _, also := files[dir]; also {
				return unresolved("paths conflict: %q is a file, and a directory of %q", dir, p)
			}
		}
	}
	return nil
}

// Stamp says what a volume that podd fills would be made from now: which objects in which revision, the fields of the pod, and
// the key of its tokens. Two volumes with the same stamp have the same content.
func Stamp(o Objects, h Host, pod *v1.Pod, vol *v1.Volume) string {
	var b strings.Builder
	for _, ref := range refsOf(vol) {
		fmt.Fprintf(&b, "%s/%s@%d ", ref.Kind, ref.Name, o.Revision(pod.Namespace, ref))
	}
	c := collector{objects: o, host: h, pod: pod}
	hash := sha256.New()
	fields := false
	for _, items := range downwardItems(vol) {
		for i := range items {
			value, err := c.downwardValue(&items[i])
			fmt.Fprintf(hash, "%q %v\n", value, err)
			fields = true
		}
	}
	if fields {
		fmt.Fprintf(&b, "fields@%s ", hex.EncodeToString(hash.Sum(nil)[:8]))
	}
	if hasToken(vol) && h.Tokens != nil {
		fmt.Fprintf(&b, "tokens@%s", h.Tokens.Key())
	}
	return strings.TrimSpace(b.String())
}

func hasToken(vol *v1.Volume) bool {
	return vol.Projected != nil &&
		slices.ContainsFunc(vol.Projected.Sources, func(s v1.VolumeProjection) bool { return s.ServiceAccountToken != nil })
}

func downwardItems(vol *v1.Volume) [][]v1.DownwardAPIVolumeFile {
	var all [][]v1.DownwardAPIVolumeFile
	if vol.DownwardAPI != nil {
		all = append(all, vol.DownwardAPI.Items)
	}
	if vol.Projected != nil {
		for i := range vol.Projected.Sources {
			if d := vol.Projected.Sources[i].DownwardAPI; d != nil {
				all = append(all, d.Items)
			}
		}
	}
	return all
}
