{
  description = "Stoker: keeps Ignition gateways fed with configuration from Git";

  # Pinned here, not only in a lock file: it has Node 26.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/02f06e665d079f83af61f9614e23170e6c9b87d5";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forEachSystem = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      manifest = builtins.fromJSON (builtins.readFile ./package.json);
      lock = builtins.fromJSON (builtins.readFile ./package-lock.json);

      # The lock file names packages and their checksums, and no place to fetch them from: that is the builder's choice.
      #   NPM_CONFIG_REGISTRY=$(npm config get registry) nix build --impure
      registry =
        pkgs:
        let
          chosen = builtins.getEnv "NPM_CONFIG_REGISTRY";
        in
        if chosen == "" then
          throw "say where npm packages come from: NPM_CONFIG_REGISTRY=$(npm config get registry) nix build --impure"
        else
          pkgs.lib.removeSuffix "/" chosen;

      # Each package's address, as npm makes it from name and version.
      lockFrom =
        from:
        let
          withAddress =
            path: entry:
            let
              name = entry.name or (builtins.elemAt (builtins.match "(.*node_modules/)?(@[^/]+/[^/]+|[^@/][^/]*)" path) 1);
              base = builtins.elemAt (builtins.match "(@[^/]+/)?(.+)" name) 1;
            in
            if entry ? integrity then
              entry // { resolved = "${from}/${name}/-/${base}-${entry.version}.tgz"; }
            else
              entry;
        in
        lock // { packages = builtins.mapAttrs withAddress lock.packages; };
    in
    {
      # The sandbox takes its programs from PATH before it builds its own.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.nodejs_26
            pkgs.git
            pkgs.go
            pkgs.kubernetes-helm
            pkgs.kubectl
            # The Ingress of the chart is tested behind it.
            pkgs.nginx
            pkgs.etcd
          ]
          # kube-apiserver and kube-controller-manager; elsewhere the sandbox builds them with Go.
          ++ pkgs.lib.optional pkgs.stdenv.hostPlatform.isLinux pkgs.kubernetes;
        };
      });

      packages = forEachSystem (pkgs: {
        default = pkgs.buildNpmPackage {
          pname = manifest.name;
          inherit (manifest) version;
          src = self;
          nodejs = pkgs.nodejs_26;

          # The lock file's own checksums; no second one to keep up to date.
          npmDeps = pkgs.importNpmLock {
            npmRoot = self;
            packageLock = lockFrom (registry pkgs);
          };
          npmConfigHook = pkgs.importNpmLock.npmConfigHook;
          npmRebuildFlags = [ "--ignore-scripts" ];

          nativeBuildInputs = [ pkgs.makeWrapper ];
          buildPhase = ''
            runHook preBuild
            node scripts/build.ts
            runHook postBuild
          '';
          # dist/ is a bundle: nothing of node_modules is needed at run time, only the git program.
          installPhase = ''
            runHook preInstall
            mkdir -p $out/lib/stoker
            cp -r dist package.json $out/lib/stoker/
            makeWrapper ${pkgs.nodejs_26}/bin/node $out/bin/stoker \
              --add-flags $out/lib/stoker/dist/stoker.js \
              --prefix PATH : ${pkgs.lib.makeBinPath [ pkgs.git ]}
            runHook postInstall
          '';

          meta = {
            inherit (manifest) description;
            license = pkgs.lib.licenses.asl20;
            mainProgram = "stoker";
          };
        };
      });
    };
}
