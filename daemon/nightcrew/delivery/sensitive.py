"""Which files are more than source: what runs by itself, what decides what else is run, and what pins foreign code.

Names are compared as the most careless file system would: without regard to case, invisible characters, compatibility
forms and dots or blanks at a name's end. They count in any folder, since a folder may be another repository's root.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = ("Cf", "Cc", "Mn")
"""Unicode categories that some file systems pass over: formats, controls, and marks such as variation selectors."""


def plain(path: str) -> str:
    """The path as names are compared here, with a slash in front."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
    seen = "".join(character for character in folded if unicodedata.category(character) not in _INVISIBLE)
    return "".join(f"/{part.rstrip('. ') or part}" for part in seen.split("/"))


class Names:
    """Patterns for paths: `*.ext` is a file's own name, `dir/` all below a folder of that name, `^` the top only."""

    def __init__(self, patterns: str, *, but: str = "") -> None:
        self._pattern = _compiled(patterns)
        self._but = _compiled(but) if but else None

    def has(self, path: str) -> bool:
        name = plain(path)
        return self._pattern.search(name) is not None and (self._but is None or self._but.search(name) is None)


def _compiled(patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(_regex(pattern) for pattern in patterns.split()))


def _regex(pattern: str) -> str:
    top = "^" if pattern.startswith("^") else ""
    body = re.escape(pattern.removeprefix("^").removesuffix("/")).replace(r"\*", "[^/]*")
    return f"{top}/{body}{'/' if pattern.endswith('/') else '$'}"


_GIT_HOOKS = """
    applypatch-msg pre-applypatch post-applypatch pre-commit pre-merge-commit prepare-commit-msg commit-msg post-commit
    pre-rebase post-checkout post-merge pre-push pre-receive proc-receive post-receive post-update
    reference-transaction push-to-checkout pre-auto-gc post-rewrite sendemail-validate fsmonitor-watchman
    post-index-change
"""

CI = Names(
    ".github/ .gitlab/ .gitea/ .forgejo/ .circleci/ .buildkite/ .woodpecker/ .tekton/ .semaphore/ .teamcity/ .travis/ "
    ".azure-pipelines/ azure-pipelines/ .pipelines/ .jenkins/ .builds/ .zuul.d/ zuul.d/ .ci/ ^ci/ .drone/ .codefresh/ "
    ".harness/ .concourse/ .gitlab-ci/ .bitbucket/ "
    ".gitlab-ci* *.gitlab-ci.yml *.gitlab-ci.yaml jenkinsfile* *.jenkinsfile .travis.y*ml azure-pipelines*.y*ml "
    ".woodpecker.y*ml .drone.* bitbucket-pipelines.y*ml appveyor.y*ml .appveyor.y*ml .cirrus.* circle.y*ml "
    "wercker.y*ml shippable.y*ml codeship-*.y*ml codefresh.y*ml cloudbuild.y*ml cloudbuild.json buildspec*.y*ml "
    ".build.yml .zuul.y*ml zuul.y*ml .prow.y*ml .ci-operator.y*ml .packit.y*ml dagger.json .gitpod.y*ml "
    ".readthedocs.y*ml readthedocs.y*ml netlify.toml vercel.json amplify.y*ml .goreleaser.y*ml .releaserc* "
    "release.config.* renovate.json* .renovaterc* dependabot.y*ml codeowners codecov.y*ml .codecov.y*ml .mergify.y*ml",
    but=".github/*.md .github/issue_template/ .github/pull_request_template/ .github/funding.yml "
    ".gitlab/issue_templates/ .gitlab/merge_request_templates/ .github/instructions/ .github/prompts/ .github/agents/ "
    ".github/chatmodes/",
)

HOOKS = Names(
    ".husky/ .githooks/ .git-hooks/ githooks/ git-hooks/ git_hooks/ .hooks/ .lefthook/ .cargo-husky/ .pre-commit/ "
    ".pre-commit-config.y*ml .pre-commit-hooks.y*ml lefthook* .lefthook* .huskyrc* husky.config.* .overcommit.y*ml "
    ".lintstagedrc* lint-staged.config.* .simple-git-hooks.* simple-git-hooks.* captainhook.json grumphp.y*ml hk.pkl "
    "prek.toml " + " ".join(f"{name} {name}.*" for name in _GIT_HOOKS.split())
)

LOCK_FILES = Names(
    "*.lock *.lockb *-lock.json *-lock.yaml *-lock.yml *.lockfile *.lock.json *.lock.hcl npm-shrinkwrap.json go.sum "
    "go.work.sum package.resolved requirements*.txt *-requirements.txt constraints*.txt requirements/ "
    "packages.lock.json pubspec.lock cpanfile.snapshot stack.yaml.lock cabal.project.freeze manifest.toml "
    "verification-metadata.xml module.bazel.lock deno.lock vcpkg-lock.json rebar.lock shard.lock",
    but="requirements/*.md requirements/*.rst",
)

GIT_SETTINGS = Names(".gitattributes .gitmodules .gitconfig .lfsconfig .git-blame-ignore-revs")

TOOL_SETTINGS = Names(
    # What agents read as orders
    "agents.md agents.override.md claude.md claude.local.md gemini.md qwen.md crush.md .cursorrules .clinerules "
    ".windsurfrules .roorules* .goosehints .rules copilot-instructions.md *.instructions.md *.mdc skill.md .aider* "
    ".mcp.json mcp.json opencode.json* .cursor/ .clinerules/ .windsurf/ .continue/ .claude/ .codex/ .gemini/ .qwen/ "
    ".roo/ .junie/ .kiro/ .opencode/ .agents/ .agent/ .augment/ .amazonq/ .trae/ .goose/ .openhands/ .devin/ "
    ".github/instructions/ .github/prompts/ .github/agents/ .github/chatmodes/ "
    # What editors and shells run when a folder is opened or entered
    ".vscode/ .idea/ .fleet/ .zed/ .nova/ .vs/ .devcontainer/ .devcontainer.json devcontainer.json *.code-workspace "
    ".envrc .env .env.local .mise/ mise.toml .mise.toml mise.local.toml .tool-versions .gitpod.dockerfile .replit "
    ".vimrc .nvimrc .exrc .nvim.lua .lvimrc .dir-locals.el .gdbinit .lldbinit .autoenv* .in .out "
    # What package managers and build tools obey before anything else
    ".npmrc .yarnrc* .yarn/ .pnpmfile.cjs .pnpmfile.mjs bunfig.toml pip.conf .pypirc uv.toml .cargo/ .bazelrc .bundle/ "
    "nuget.config .mvn/ mvnw mvnw.cmd gradlew gradlew.bat gradle-wrapper.properties gradle-wrapper.jar init.gradle "
    ".pdbrc .pythonstartup sitecustomize.py usercustomize.py *.pth .rprofile .irbrc .pryrc .ipython/"
)

CHECK_SETTINGS = Names(
    "conftest.py pytest.ini .pytest.ini pytest.toml .pytest.toml tox.ini tox.toml noxfile.py .coveragerc coverage.cfg "
    "nose.cfg .noserc unittest.cfg .stestr.conf jest.config.* jest.setup.* jest.preset.* vitest.config.* "
    "vitest.workspace.* vitest.setup.* vite.config.* karma.conf.* .mocharc* mocha.opts ava.config.* .taprc "
    "playwright.config.* cypress.config.* cypress.json wdio.conf.* .nycrc* .c8rc* .swcrc babel.config.* .babelrc* "
    "ruff.toml .ruff.toml mypy.ini .mypy.ini pyrightconfig.json .flake8 .pylintrc pylintrc .bandit .importlinter "
    ".eslintrc* .eslintignore eslint.config.* biome.json* .stylelintrc* tslint.json .golangci.* clippy.toml "
    ".clippy.toml nextest.toml .rspec .rubocop.y*ml .simplecov phpunit.xml* phpstan.neon* psalm.xml* infection.json* "
    "pest.php checkstyle.xml .swiftlint.y*ml .credo.exs .formatter.exs analysis_options.yaml dart_test.yaml "
    "test_helper.exs test_helper.rb spec_helper.rb rails_helper.rb testng.xml junit-platform.properties "
    ".config/nextest.toml ctestcustom.cmake ctestconfig.cmake bats.bash .shellcheckrc"
)
"""Files that are nothing else but the settings of a test runner or another judge."""

_VERSION = r"(?:[<>=!~]=|===|[<>])\s*v?\d[\w.*+!-]*"
_REQUIREMENT = rf"\w[\w.-]*(?:\[[\w, -]*\])?\s*{_VERSION}(?:\s*,\s*{_VERSION})*(?:\s*;[^\"\\]*)?"

MANIFESTS: dict[str, re.Pattern[str]] = {
    "package.json": re.compile(
        r"\s*(?:[\[\]{}],?|\"(?:version|description|license|homepage|author)\"\s*:\s*\"[^\"\\]*\",?"
        r"|\"[\w@./-]+\"\s*:\s*\"[~^=v<>]{0,2}\d[\w.*+-]*\",?)?\s*"
    ),
    "pyproject.toml": re.compile(
        r"\s*(?:#.*|\]|(?:version|description|readme|license|requires-python)\s*=\s*(?:\"[^\"\\]*\"|'[^']*')"
        rf"|(?:[\w-]+\s*=\s*)?\[?\s*(?:\"{_REQUIREMENT}\"\s*,?\s*)+\]?,?)?\s*"
    ),
    "setup.cfg": re.compile(
        rf"\s*(?:[#;].*|(?:version|description|license|python_requires)\s*=[^\[]*|{_REQUIREMENT})?\s*"
    ),
    "cargo.toml": re.compile(
        r"\s*(?:#.*|\[(?:dev-|build-)?dependencies\]"
        r"|(?:version|description|license|edition|rust-version)\s*=\s*\"[^\"]*\""
        r"|[\w-]+\s*=\s*(?:\"[\^~=<>]*\d[\w.*+-]*\"|\{\s*version\s*=\s*\"[^\"]*\""
        r"(?:\s*,\s*(?:features|default-features|optional)\s*=\s*(?:\[[^\]]*\]|true|false))*\s*\}))?\s*"
    ),
}
"""Files that are also the settings of a judge: what their lines may say without being that. A line that a whole
pattern does not match may change what is run, and is held; so nothing depends on spelling a key in a known way."""

DRIVERS: dict[str, Names] = {
    "make gmake": Names("makefile gnumakefile makefile.* *.mk"),
    "npm npx yarn pnpm bun node": Names("package.json .npmrc lerna.json nx.json turbo.json pnpm-workspace.yaml"),
    "cargo": Names("cargo.toml build.rs rust-toolchain*"),
    "go": Names("go.work"),
    "just": Names("justfile .justfile *.just"),
    "task": Names("taskfile.y*ml taskfile.dist.y*ml"),
    "rake bundle ruby rspec": Names("rakefile *.rake gemfile *.gemspec"),
    "gradle gradlew": Names("*.gradle *.gradle.kts gradle.properties buildsrc/"),
    "mvn mvnw": Names("pom.xml"),
    "ant": Names("build.xml"),
    "cmake ctest ninja": Names("cmakelists.txt *.cmake cmakepresets.json"),
    "meson": Names("meson.build meson_options.txt meson.options"),
    "bazel bazelisk": Names("build build.bazel workspace workspace.bazel module.bazel *.bzl"),
    "mix": Names("mix.exs"),
    "invoke inv": Names("tasks.py"),
    "composer php phpunit": Names("composer.json"),
    "swift": Names("package.swift"),
    "dotnet": Names("*.csproj *.fsproj directory.build.props directory.build.targets *.runsettings"),
    "sbt": Names("build.sbt"),
    "stack cabal": Names("stack.yaml *.cabal cabal.project"),
    "deno": Names("deno.json*"),
    "docker docker-compose podman": Names("dockerfile* *.dockerfile docker-compose*.y*ml compose*.y*ml .dockerignore"),
    "dune": Names("dune dune-project"),
    "scons": Names("sconstruct sconscript"),
    "tox nox hatch pdm poetry": Names("setup.py"),
}
"""Build files by the programs that obey them: they decide what a check does when it runs one of these."""
