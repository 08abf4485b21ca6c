package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"podd/api/images"
)

func (p *podctl) image() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "List, pull, load and remove images",
		Long:  "List, pull, load and remove the images on this host.",
		Run:   func(cmd *cobra.Command, _ []string) { cmdutil.CheckErr(cmd.Help()) },
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(p.imageList(), p.imagePull(), p.imageLoad(), p.imageRemove())
	return cmd
}

// imagesVerb lists images, as elsewhere, and has the commands of image.
func (p *podctl) imagesVerb() *cobra.Command {
	cmd := p.imageList()
	cmd.Use, cmd.Aliases = "images", nil
	cmd.AddCommand(p.imageList(), p.imagePull(), p.imageLoad(), p.imageRemove())
	return cmd
}

// interruptible is a context that ends when the user says so.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

func (p *podctl) imageList() *cobra.Command {
	var output string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List images",
		Args:    cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			ctx, stop := interruptible()
			defer stop()
			if quiet && output != "" {
				cmdutil.CheckErr(errors.New("-q prints names alone: leave out -o"))
			}
			if quiet {
				output = "name"
			}
			list, err := p.images(ctx)
			cmdutil.CheckErr(err)
			cmdutil.CheckErr(p.printImages(list, output))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, name, wide, or nothing for a table")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "only the names, as -o name prints them")
	return cmd
}

func (p *podctl) images(ctx context.Context) ([]images.Info, error) {
	res, err := p.client.request(ctx, http.MethodGet, images.Path, nil, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var list images.List
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	slices.SortFunc(list.Images, func(a, b images.Info) int { return strings.Compare(a.Name, b.Name) })
	return list.Images, nil
}

func (p *podctl) printImages(list []images.Info, output string) error {
	out := p.shown.Out
	switch output {
	case "json":
		b, err := json.MarshalIndent(images.List{Images: list}, "", "  ")
		fmt.Fprintln(out, string(b))
		return err
	case "name":
		for _, i := range list {
			fmt.Fprintln(out, i.Name)
		}
		return nil
	case "", "wide":
	default:
		return fmt.Errorf("unknown output format %q: json, name and wide are known", output)
	}
	if len(list) == 0 {
		fmt.Fprintln(p.shown.ErrOut, "No images found.")
		return nil
	}
	short := func(digest string) string {
		_, hex, _ := strings.Cut(digest, ":")
		if output == "wide" || len(hex) <= 12 {
			return digest
		}
		return hex[:12]
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tIMAGE ID\tDIGEST\tSIZE\tAGE")
	for _, i := range list {
		age := "<unknown>"
		if !i.Created.IsZero() {
			age = duration.HumanDuration(time.Since(i.Created))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", i.Name, short(i.ID), short(i.Digest), bytesOf(i.Size), age)
	}
	return w.Flush()
}

func (p *podctl) imagePull() *cobra.Command {
	return &cobra.Command{
		Use:     "pull IMAGE...",
		Short:   "Pull images from their registries",
		Example: "  podctl image pull busybox:1.36",
		Args:    atLeastOne("image"),
		Run: func(_ *cobra.Command, refs []string) {
			ctx, stop := interruptible()
			defer stop()
			for _, ref := range refs {
				last, err := p.follow(ctx, images.PullPath, url.Values{"ref": {ref}}, nil)
				cmdutil.CheckErr(err)
				done := images.Info{Name: ref}
				if last.Image != nil {
					done = *last.Image
				}
				fmt.Fprintf(p.shown.Out, "image %q pulled (%s)\n", done.Name, bytesOf(done.Size))
			}
		},
	}
}

func (p *podctl) imageLoad() *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:   "load FILE...",
		Short: "Load images from OCI or docker archives",
		Example: `  podctl image load app.tar
  docker save app:1 | podctl image load -`,
		Run: func(_ *cobra.Command, files []string) {
			if input != "" {
				files = append(files, input)
			}
			if len(files) == 0 {
				cmdutil.CheckErr(errors.New("name the archives to load, or - for stdin"))
			}
			ctx, stop := interruptible()
			defer stop()
			for _, file := range files {
				last, err := p.load(ctx, file)
				cmdutil.CheckErr(err)
				if last.Image != nil && len(last.Images) == 0 {
					last.Images = []images.Info{*last.Image}
				}
				for _, i := range last.Images {
					fmt.Fprintf(p.shown.Out, "image %q loaded (%s)\n", i.Name, bytesOf(i.Size))
				}
			}
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "the archive to load, or - for stdin")
	return cmd
}

func (p *podctl) load(ctx context.Context, file string) (images.Progress, error) {
	var in io.Reader = p.streams.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return images.Progress{}, err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return images.Progress{}, fmt.Errorf("load %s: it is a directory, not an archive", file)
		}
		in = f
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && terminal(p.streams.ErrOut) {
			m := &meter{in: f, out: p.streams.ErrOut, name: filepath.Base(file), total: info.Size()}
			defer m.end()
			in = m
		}
	} else if terminal(p.streams.Out) && isTerminalIn(p.streams.In) {
		return images.Progress{}, errors.New("stdin is a terminal: pipe an archive into podctl image load -")
	}
	last, err := p.follow(ctx, images.LoadPath, nil, in)
	if err != nil && file != "-" {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return last, err
}

func isTerminalIn(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && terminal(f)
}

func (p *podctl) imageRemove() *cobra.Command {
	var ignore bool
	cmd := &cobra.Command{
		Use:               "rm IMAGE...",
		Aliases:           []string{"remove", "delete"},
		Short:             "Remove images",
		Args:              atLeastOne("image"),
		ValidArgsFunction: p.completeImages,
		Run: func(_ *cobra.Command, refs []string) {
			ctx, stop := interruptible()
			defer stop()
			for _, ref := range refs {
				before, err := p.images(ctx)
				cmdutil.CheckErr(err)
				id, err := idOf(ref, before)
				cmdutil.CheckErr(err)
				res, err := p.client.request(ctx, http.MethodDelete, images.Path, url.Values{"ref": {id}}, nil)
				cmdutil.CheckErr(err)
				res.Body.Close()
				after, err := p.images(ctx)
				cmdutil.CheckErr(err)
				if !p.sayRemoved(ref, before, after) && !ignore {
					cmdutil.CheckErr(fmt.Errorf("image %q is not here", ref))
				}
			}
		},
	}
	cmd.Flags().BoolVar(&ignore, "ignore-not-found", false, "an image that is not here is no error")
	return cmd
}

// shortest is how many digits of an ID are taken for one.
const shortest = 4

// idOf is the whole ID of the image that ref is the beginning of, as image ls shows it; any other ref is returned as it is.
func idOf(ref string, all []images.Info) (string, error) {
	digits := strings.TrimPrefix(ref, "sha256:")
	if len(digits) < shortest || strings.Trim(digits, "0123456789abcdef") != "" {
		return ref, nil
	}
	id := ""
	for _, i := range all {
		if i.Name == "docker.io/library/"+ref+":latest" { // a name comes first
			return ref, nil
		}
		if !strings.HasPrefix(strings.TrimPrefix(i.ID, "sha256:"), digits) || i.ID == id {
			continue
		}
		if id != "" {
			return "", fmt.Errorf("image %q: more than one image ID begins like this", ref)
		}
		id = i.ID
	}
	if id == "" {
		return ref, nil
	}
	return id, nil
}

// sayRemoved names what is gone of ref, if anything is: an ID takes all names of its image along, and a mistyped name takes
// nothing. What somebody else removes meanwhile is not ref's.
func (p *podctl) sayRemoved(ref string, before, after []images.Info) (some bool) {
	left := map[string]bool{}
	for _, i := range after {
		left[i.Name] = true
	}
	for _, i := range before {
		if !left[i.Name] && meant(ref, i) {
			fmt.Fprintf(p.shown.Out, "image %q deleted\n", i.Name)
			some = true
		}
	}
	return some
}

// meant says whether an image may be what ref names: by a short or a full name, an ID or a digest.
func meant(ref string, i images.Info) bool {
	for _, name := range []string{ref, ref + ":latest"} {
		if i.Name == name || strings.HasSuffix(i.Name, "/"+name) {
			return true
		}
	}
	digest := strings.TrimPrefix(ref[strings.LastIndexByte(ref, '@')+1:], "sha256:")
	return digest != "" && (strings.HasPrefix(strings.TrimPrefix(i.ID, "sha256:"), digest) || strings.HasPrefix(strings.TrimPrefix(i.Digest, "sha256:"), digest))
}

func (p *podctl) completeImages(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	list, err := p.images(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func atLeastOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("name at least one %s; see '%s -h'", what, cmd.CommandPath())
		}
		return nil
	}
}

// request asks one of podd's own paths. An answer that is not 2xx is an error, in the words of the server.
func (c *client) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	hc, address, err := c.http()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, address+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "podctl/"+release())
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/x-tar")
	}
	res, err := hc.Do(req)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err
		}
		return nil, err
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	said, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("podd answers %s: %w", res.Status, err)
	}
	var status metav1.Status
	if json.Unmarshal(said, &status) == nil && status.Message != "" {
		return nil, errors.New(status.Message)
	}
	return nil, fmt.Errorf("podd answers %s: %s", res.Status, strings.TrimSpace(string(said)))
}

// follow sends body and shows the progress that comes back, until its last line.
func (p *podctl) follow(ctx context.Context, path string, query url.Values, body io.Reader) (images.Progress, error) {
	res, err := p.client.request(ctx, http.MethodPost, path, query, body)
	if err != nil {
		return images.Progress{}, err
	}
	defer res.Body.Close()
	show := newProgress(p.streams.ErrOut, p.shown.ErrOut)
	lines := json.NewDecoder(res.Body)
	for {
		var line images.Progress
		if err := lines.Decode(&line); err != nil {
			show.end()
			if ctx.Err() != nil {
				return line, errors.New("given up")
			}
			return line, fmt.Errorf("podd stopped in the middle: %w", err)
		}
		if line.Ref != "" { // a load has none
			show.update(line, time.Now())
		}
		if !line.Done {
			continue
		}
		show.end()
		if line.Error != "" {
			return line, errors.New(line.Error)
		}
		return line, nil
	}
}
