# ---- How it is done ------------------------------------------------------------------------------------

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# What -WhatIf and -Confirm are asked of.
$Caller = $PSCmdlet

# For each command of Graph and Exchange: functions of modules don't see $ErrorActionPreference of a script.
$Stop = @{ ErrorAction = 'Stop' }

# What was looked at, for the check at the end.
$Facts = New-Object 'System.Collections.Generic.List[object]'

# The application ids of "Office 365 Exchange Online" and of "Microsoft Graph": the same in every tenant.
$ExchangeApi = '00000002-0000-0ff1-ce00-000000000000'
$GraphApi = '00000003-0000-0000-c000-000000000000'

function Add-Fact([string] $Subject, [string] $Fact, [bool] $Holds, [string] $Remark) {
    $mark = 'MISSING'
    if ($Holds) { $mark = 'OK' }
    $Facts.Add([pscustomobject]@{ Mark = $mark; Subject = $Subject; Fact = $Fact; Remark = $Remark })
    Write-Host "$mark  ${Subject}: $Fact"
}

# What can't be looked at is taken as missing: making it then says why.
function Test-Fact([scriptblock] $Look) {
    try { return [bool](& $Look) } catch { return $false }
}

# What was just made is not seen everywhere at once.
function Wait-Fact([scriptblock] $Look) {
    for ($waited = 0; $waited -lt 30 -and -not (Test-Fact $Look); $waited += 5) {
        Start-Sleep -Seconds 5
    }
    return Test-Fact $Look
}

# One thing that must be so: it is looked at, made so if it is not, and looked at again.
function Set-Fact([string] $Subject, [string] $Fact, [scriptblock] $Look, [scriptblock] $Make) {
    # One person can open several mailboxes.
    if ($Facts | Where-Object { $_.Subject -eq $Subject -and $_.Fact -eq $Fact }) { return }
    $holds = Test-Fact $Look
    $remark = ''
    if (-not $holds -and $Caller.ShouldProcess($Subject, "Set $Fact")) {
        try {
            & $Make | Out-Null
            $holds = Wait-Fact $Look
            if (-not $holds) { $remark = 'it was set but is not seen yet; run the script again later' }
        } catch {
            $remark = $_.Exception.Message
        }
    }
    Add-Fact $Subject $Fact $holds $remark
}

# ---- Entra: app registration, enterprise application, consent ----

function Open-EntraSession {
    $scopes = @('Application.ReadWrite.All', 'AppRoleAssignment.ReadWrite.All')
    $scopes += 'DelegatedPermissionGrant.ReadWrite.All'
    $options = @{ Environment = $Cloud.Graph; Scopes = $scopes; NoWelcome = $true }
    if ($Tenant) { $options.TenantId = $Tenant }
    Connect-MgGraph @options
}

# By the client id if the configuration has one, else by the name that this script gives.
function Find-Registration($App) {
    if ($App.ClientId) {
        $filter = "appId eq '$($App.ClientId)'"
    } else {
        $title = $App.Title.Replace("'", "''")
        $filter = "displayName eq '$title'"
    }
    $found = @(Get-MgApplication -Filter $filter -All @Stop)
    if ($found.Count -gt 1) {
        throw "there are $($found.Count) app registrations $($App.Title); set client_id in gatepost.toml"
    }
    if ($found.Count -eq 1) { return $found[0] }
}

function Initialize-Registration($App) {
    $registration = Find-Registration $App
    $new = $null -eq $registration -and -not $App.ClientId
    if ($new -and $Caller.ShouldProcess($App.Title, 'Set app registration')) {
        $registration = New-MgApplication -DisplayName $App.Title -SignInAudience AzureADMyOrg @Stop
        Wait-Fact { Find-Registration $App } | Out-Null
    }
    if ($null -eq $registration -and $App.ClientId) {
        # Somebody else's app: its permissions are its owner's business, the consent is this tenant's.
        Write-Host "The app registration of $($App.Title) is not in this tenant."
        return
    }
    Add-Fact $App.Title 'app registration' ($null -ne $registration) ''
    return $registration
}

# A permission is asked for by its id, which is looked up by its name where it is published.
function Get-Permissions($App) {
    $exchange = Get-MgServicePrincipal -Filter "appId eq '$ExchangeApi'" @Stop
    $graph = Get-MgServicePrincipal -Filter "appId eq '$GraphApi'" @Stop
    if ($null -eq $exchange) { throw 'the tenant has no Exchange Online' }
    $found = @(
        foreach ($role in $exchange.AppRoles) {
            if ($App.Roles -contains $role.Value) {
                @{ Api = $exchange; Id = $role.Id; Value = $role.Value; Type = 'Role' }
            }
        }
        # Tokens are Exchange's, but the portal lists these scopes as Graph's: they are wanted of each of the
        # two that has them.
        foreach ($api in $exchange, $graph) {
            foreach ($scope in $api.Oauth2PermissionScopes) {
                if ($App.Scopes -contains $scope.Value) {
                    @{ Api = $api; Id = $scope.Id; Value = $scope.Value; Type = 'Scope' }
                }
            }
        }
    )
    $found += @(
        foreach ($scope in $graph.Oauth2PermissionScopes) {
            if ($App.GraphScopes -contains $scope.Value) {
                @{ Api = $graph; Id = $scope.Id; Value = $scope.Value; Type = 'Scope' }
            }
        }
    )
    foreach ($value in $App.Roles + $App.Scopes + $App.GraphScopes) {
        if (@($found | Where-Object { $_.Value -eq $value }).Count -eq 0) {
            throw "this cloud has no permission $value"
        }
    }
    return $found
}

# The permissions that a registration asks for, as a table from API to ids with their types.
function Get-RequiredAccess([string] $RegistrationId) {
    $access = @{}
    foreach ($entry in (Get-MgApplication -ApplicationId $RegistrationId @Stop).RequiredResourceAccess) {
        $access[$entry.ResourceAppId] = @{}
        foreach ($item in $entry.ResourceAccess) {
            $access[$entry.ResourceAppId][$item.Id] = $item.Type
        }
    }
    return $access
}

function Test-RequiredAccess([string] $RegistrationId, $Permissions) {
    $access = Get-RequiredAccess $RegistrationId
    foreach ($permission in $Permissions) {
        $api = $permission.Api.AppId
        if (-not $access.ContainsKey($api)) { return $false }
        if (-not $access[$api].ContainsKey($permission.Id)) { return $false }
    }
    return $true
}

# The list is replaced as a whole: what stands there already stays.
function Add-RequiredAccess([string] $RegistrationId, $Permissions) {
    $access = Get-RequiredAccess $RegistrationId
    foreach ($permission in $Permissions) {
        $api = $permission.Api.AppId
        if (-not $access.ContainsKey($api)) { $access[$api] = @{} }
        $access[$api][$permission.Id] = $permission.Type
    }
    $list = @(
        foreach ($api in $access.Keys) {
            $items = @(foreach ($id in $access[$api].Keys) { @{ id = $id; type = $access[$api][$id] } })
            @{ resourceAppId = $api; resourceAccess = $items }
        }
    )
    Update-MgApplication -ApplicationId $RegistrationId -BodyParameter @{ requiredResourceAccess = $list } @Stop
}

# Where a person's browser comes back to. A registration with a secret is a web application, one without
# is a public client.
function Set-Redirect($App, [string] $RegistrationId) {
    Set-Fact $App.Title "redirect URI $($App.RedirectUri)" {
        $now = Get-MgApplication -ApplicationId $RegistrationId @Stop
        @($now.PublicClient.RedirectUris) + @($now.Web.RedirectUris) -contains $App.RedirectUri
    } {
        $now = Get-MgApplication -ApplicationId $RegistrationId @Stop
        if ($App.Credential) {
            $uris = @($now.Web.RedirectUris | Where-Object { $_ }) + @($App.RedirectUri)
            $change = @{ web = @{ redirectUris = $uris } }
        } else {
            $uris = @($now.PublicClient.RedirectUris | Where-Object { $_ }) + @($App.RedirectUri)
            $change = @{ publicClient = @{ redirectUris = $uris } }
        }
        Update-MgApplication -ApplicationId $RegistrationId -BodyParameter $change @Stop
    }
}

function Set-PublicClientFlows($App, [string] $RegistrationId) {
    Set-Fact $App.Title 'public client flows (device code)' {
        (Get-MgApplication -ApplicationId $RegistrationId @Stop).IsFallbackPublicClient
    } {
        Update-MgApplication -ApplicationId $RegistrationId -BodyParameter @{ isFallbackPublicClient = $true } @Stop
    }
}

function Set-Registration($App, [string] $RegistrationId, $Permissions) {
    if ($App.Scopes.Count -gt 0) { Set-Redirect $App $RegistrationId }
    if ($App.Grant -eq 'device_code') { Set-PublicClientFlows $App $RegistrationId }
    Set-Fact $App.Title "permissions $(($App.Roles + $App.Scopes + $App.GraphScopes) -join ', ')" {
        Test-RequiredAccess $RegistrationId $Permissions
    } {
        Add-RequiredAccess $RegistrationId $Permissions
    }
}

# What stands for the app in this tenant. A managed identity has nothing else.
function Find-EnterpriseApplication($App, [string] $ClientId) {
    if ($ClientId) { return Get-MgServicePrincipal -Filter "appId eq '$ClientId'" @Stop }
    if ($App.Grant -eq 'managed_identity' -and $IdentityObjectId) {
        return Get-MgServicePrincipal -ServicePrincipalId $IdentityObjectId @Stop
    }
}

function Initialize-EnterpriseApplication($App, [string] $ClientId) {
    if ($App.Grant -eq 'managed_identity') {
        $there = Test-Fact { Find-EnterpriseApplication $App $ClientId }
        $remark = 'give its object id: -IdentityObjectId (portal: the virtual machine, Identity)'
        Add-Fact $App.Title 'managed identity' $there $remark
    } elseif ($ClientId) {
        Set-Fact $App.Title 'enterprise application' {
            Find-EnterpriseApplication $App $ClientId
        } {
            New-MgServicePrincipal -AppId $ClientId @Stop
        }
    }
    return Find-EnterpriseApplication $App $ClientId
}

# Consent to an application permission is an assignment of its role.
function Set-RoleConsent($App, [string] $PrincipalId, $Permission) {
    $assignment = @{
        principalId = $PrincipalId
        resourceId  = $Permission.Api.Id
        appRoleId   = $Permission.Id
    }
    Set-Fact $App.Title "consent to $($Permission.Value)" {
        Get-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $PrincipalId -All @Stop |
            Where-Object { $_.ResourceId -eq $assignment.resourceId -and $_.AppRoleId -eq $assignment.appRoleId }
    } {
        New-MgServicePrincipalAppRoleAssignment -ServicePrincipalId $PrincipalId -BodyParameter $assignment @Stop
    }
}

function Find-Grant([string] $PrincipalId, [string] $ApiId) {
    Get-MgServicePrincipalOauth2PermissionGrant -ServicePrincipalId $PrincipalId -All @Stop |
        Where-Object { $_.ResourceId -eq $ApiId -and $_.ConsentType -eq 'AllPrincipals' }
}

# Consent to delegated permissions, for everybody: one grant for each API, with all scopes in one string.
function Set-ScopeConsent($App, [string] $PrincipalId, $Api, [string[]] $Scopes) {
    Set-Fact $App.Title "consent for everybody to $($Scopes -join ', ') of $($Api.DisplayName)" {
        $grant = Find-Grant $PrincipalId $Api.Id
        $granted = @()
        if ($grant) { $granted = -split $grant.Scope }
        @($Scopes | Where-Object { $granted -notcontains $_ }).Count -eq 0
    } {
        $grant = Find-Grant $PrincipalId $Api.Id
        if ($grant) {
            $all = @(-split $grant.Scope) + $Scopes | Select-Object -Unique
            $body = @{ scope = $all -join ' ' }
            Invoke-MgGraphRequest -Method PATCH -Uri "/v1.0/oauth2PermissionGrants/$($grant.Id)" -Body $body @Stop
        } else {
            $body = @{
                clientId    = $PrincipalId
                consentType = 'AllPrincipals'
                resourceId  = $Api.Id
                scope       = $Scopes -join ' '
            }
            Invoke-MgGraphRequest -Method POST -Uri '/v1.0/oauth2PermissionGrants' -Body $body @Stop
        }
    }
}

function Set-Consent($App, [string] $PrincipalId, $Permissions) {
    foreach ($permission in $Permissions) {
        if ($permission.Type -eq 'Role') { Set-RoleConsent $App $PrincipalId $permission }
    }
    $delegated = @($Permissions | Where-Object { $_.Type -eq 'Scope' })
    foreach ($group in $delegated | Group-Object -Property { $_.Api.Id }) {
        $api = $group.Group[0].Api
        $scopes = @($group.Group | ForEach-Object { $_.Value })
        Set-ScopeConsent $App $PrincipalId $api $scopes
    }
}

# All of an app in Entra. Gives the ids that Exchange and gatepost.toml need.
function Set-AppInEntra($App) {
    $ids = @{ Registration = ''; ClientId = $App.ClientId; Principal = '' }
    try {
        $permissions = @(Get-Permissions $App)
        if ($App.Grant -ne 'managed_identity') {
            $registration = Initialize-Registration $App
            if ($null -ne $registration) {
                $ids.Registration = $registration.Id
                $ids.ClientId = $registration.AppId
                Set-Registration $App $ids.Registration $permissions
            }
        }
        $principal = Initialize-EnterpriseApplication $App $ids.ClientId
        if ($null -ne $principal) {
            $ids.Principal = $principal.Id
            $ids.ClientId = $principal.AppId
            Set-Consent $App $ids.Principal $permissions
        } elseif ($WhatIfPreference) {
            $values = ($App.Roles + $App.Scopes + $App.GraphScopes) -join ', '
            Write-Host "What if: then its enterprise application, and consent to $values"
        }
    } catch {
        Add-Fact $App.Title 'set-up in Entra' $false $_.Exception.Message
    }
    return $ids
}

# Whether the app has what it proves itself with. No secret can be read, only when it ends.
function Test-Credential($App, [string] $RegistrationId) {
    $registration = Get-MgApplication -ApplicationId $RegistrationId @Stop
    if ($App.Credential -eq 'federated_token') {
        $there = Test-Fact { Get-MgApplicationFederatedIdentityCredential -ApplicationId $RegistrationId @Stop }
        $remark = "add it at $($Cloud.Portal): App registrations, Certificates & secrets"
        Add-Fact $App.Title 'federated credential' $there $remark
        return
    }
    if ($App.Credential -eq 'client_secret') {
        $name = 'client secret'
        $credentials = @($registration.PasswordCredentials)
        $remark = "run this script with -NewSecret, or make one at $($Cloud.Portal): " +
            'App registrations, Certificates & secrets'
    } else {
        $name = 'client certificate'
        $credentials = @($registration.KeyCredentials)
        $remark = "upload the certificate at $($Cloud.Portal): App registrations, Certificates & secrets"
    }
    $now = (Get-Date).ToUniversalTime()
    $last = $credentials | Where-Object { $_ -and $_.EndDateTime -gt $now } |
        Sort-Object -Property EndDateTime | Select-Object -Last 1
    if ($null -eq $last) {
        Add-Fact $App.Title $name $false $remark
    } else {
        Add-Fact $App.Title "$name, ends on $($last.EndDateTime.ToString('yyyy-MM-dd'))" $true ''
    }
}

# The only thing that is shown once and never again.
function New-Secret($App, [string] $RegistrationId) {
    if (-not $Caller.ShouldProcess($App.Title, 'Make a client secret for 12 months')) { return }
    $wanted = @{ displayName = 'gatepost'; endDateTime = (Get-Date).ToUniversalTime().AddMonths(12) }
    $made = Add-MgApplicationPassword -ApplicationId $RegistrationId -PasswordCredential $wanted @Stop
    Wait-Fact {
        (Get-MgApplication -ApplicationId $RegistrationId @Stop).PasswordCredentials |
            Where-Object { $_.KeyId -eq $made.KeyId }
    } | Out-Null
    Write-Host ''
    Write-Host "The new client secret of $($App.Title). It is shown this once:"
    Write-Host $made.SecretText
    Write-Host ''
}

# ---- Exchange: service principal, rights on mailboxes, protocols ----

function Open-ExchangeSession([string] $TenantId) {
    $options = @{ ExchangeEnvironmentName = $Cloud.Exchange; ShowBanner = $false }
    # The sign-in window of Windows fails if the modules of Graph and Exchange share a session.
    if ((Get-Command -Name Connect-ExchangeOnline).Parameters.ContainsKey('DisableWAM')) {
        $options.DisableWAM = $true
    }
    try {
        Connect-ExchangeOnline @options
    } catch {
        Write-Host 'Exchange could not be connected to. If the reason names Microsoft.Identity.Client or a broker,'
        Write-Host 'then the modules of Graph and Exchange are at odds: Update-Module both, and use a new window.'
        throw
    }
    $connection = Get-ConnectionInformation | Where-Object { $_.State -eq 'Connected' } | Select-Object -Last 1
    if ($connection -and "$($connection.TenantID)" -ne $TenantId) {
        throw "Exchange is of the tenant $($connection.TenantID), Entra of $TenantId; sign in as one person"
    }
}

# Exchange's own entry for the app must have the object id of the ENTERPRISE application. The one of the app
# registration is taken by mistake so often that it is looked for here.
function Set-ExchangePrincipal($App, $Ids) {
    $there = Get-ServicePrincipal @Stop | Where-Object { $_.AppId -eq $Ids.ClientId } | Select-Object -First 1
    if ($there -and "$($there.ObjectId)" -ne $Ids.Principal) {
        $remark = "it has the object id $($there.ObjectId), but the enterprise application has " +
            "$($Ids.Principal). Remove-ServicePrincipal -Identity $($there.ObjectId), then run this again"
        Add-Fact $App.Title 'service principal in Exchange' $false $remark
        return
    }
    Set-Fact $App.Title 'service principal in Exchange' {
        Get-ServicePrincipal @Stop | Where-Object { $_.AppId -eq $Ids.ClientId }
    } {
        New-ServicePrincipal -AppId $Ids.ClientId -ObjectId $Ids.Principal -DisplayName $App.Title @Stop
    }
    $there = Get-ServicePrincipal @Stop | Where-Object { $_.AppId -eq $Ids.ClientId } | Select-Object -First 1
    if ($there) { return "$($there.Identity)" }
}

# The mailboxes that an entry of the table stands for. RBAC for Applications could give a whole domain at once,
# but has a role for SMTP alone, none for IMAP and POP3; so each mailbox gets its own permission. A mailbox that
# is made later needs this script again.
function Get-MailboxNames($Entry) {
    if (-not $Entry.Mailbox.StartsWith('*@')) { return $Entry.Mailbox }
    $ending = $Entry.Mailbox.Substring(1)
    $kinds = @('UserMailbox', 'SharedMailbox', 'RoomMailbox', 'EquipmentMailbox')
    Get-EXOMailbox -ResultSize Unlimited -RecipientTypeDetails $kinds @Stop |
        ForEach-Object { "$($_.PrimarySmtpAddress)" } |
        Where-Object { $_.EndsWith($ending, [StringComparison]::OrdinalIgnoreCase) }
}

function Set-FullAccess([string] $Mailbox, [string] $Trustee, [string] $Name) {
    Set-Fact $Mailbox "full access of $Name" {
        Get-MailboxPermission -Identity $Mailbox -User $Trustee @Stop |
            Where-Object { "$($_.AccessRights)" -like '*FullAccess*' -and -not $_.Deny }
    } {
        Add-MailboxPermission -Identity $Mailbox -User $Trustee -AccessRights FullAccess -AutoMapping:$false @Stop
    }
}

function Set-SendAs([string] $Mailbox, [string] $Trustee, [string] $Name) {
    Set-Fact $Mailbox "right to send of $Name" {
        Get-RecipientPermission -Identity $Mailbox -Trustee $Trustee @Stop |
            Where-Object { "$($_.AccessRights)" -like '*SendAs*' }
    } {
        Add-RecipientPermission -Identity $Mailbox -Trustee $Trustee -AccessRights SendAs -Confirm:$false @Stop
    }
}

# What an app may send by Microsoft Graph is given in Exchange (RBAC for Applications), for a scope of exactly these
# mailboxes: a permission that is consented to in Entra would let it send as everybody. It counts within two hours.
function Set-GraphAccess($App, $Ids, [string[]] $Names) {
    $scope = "gatepost $($Ids.ClientId)"
    $filter = @($Names | ForEach-Object { "EmailAddresses -eq '$($_.Replace("'", "''"))'" }) -join ' -or '
    Set-Fact $App.Title "scope of the $($Names.Count) mailboxes that send by Microsoft Graph" {
        $known = "$((Get-ManagementScope -Identity $scope @Stop).RecipientFilter)"
        @($Names | Where-Object { $known.IndexOf($_, [StringComparison]::OrdinalIgnoreCase) -lt 0 }).Count -eq 0
    } {
        if (Test-Fact { Get-ManagementScope -Identity $scope @Stop }) {
            Set-ManagementScope -Identity $scope -RecipientRestrictionFilter $filter @Stop
        } else {
            New-ManagementScope -Name $scope -RecipientRestrictionFilter $filter @Stop
        }
    }
    foreach ($role in $App.GraphRoles) {
        Set-Fact $App.Title "$role on these mailboxes" {
            Get-ManagementRoleAssignment -Role $role -RoleAssignee $Ids.Principal @Stop |
                Where-Object { "$($_.CustomResourceScope)" -eq $scope }
        } {
            New-ManagementRoleAssignment -App $Ids.Principal -Role $role -CustomResourceScope $scope @Stop
        }
    }
}

# The mailbox's own setting goes before the tenant's; without one, the tenant's counts.
function Test-SmtpAuth([string] $Mailbox) {
    $disabled = "$((Get-CASMailbox -Identity $Mailbox @Stop).SmtpClientAuthenticationDisabled)"
    if (-not $disabled) { $disabled = "$((Get-TransportConfig @Stop).SmtpClientAuthenticationDisabled)" }
    return $disabled -eq 'False'
}

function Set-Protocols($App, [string] $Mailbox, [string] $Sender) {
    if ($App.Protocols -contains 'imap') {
        Set-Fact $Mailbox 'IMAP' {
            (Get-CASMailbox -Identity $Mailbox @Stop).ImapEnabled
        } {
            Set-CASMailbox -Identity $Mailbox -ImapEnabled $true @Stop
        }
    }
    if ($App.Protocols -contains 'pop3') {
        Set-Fact $Mailbox 'POP3' {
            (Get-CASMailbox -Identity $Mailbox @Stop).PopEnabled
        } {
            Set-CASMailbox -Identity $Mailbox -PopEnabled $true @Stop
        }
    }
    if ($App.Protocols -contains 'smtp') {
        Set-Fact $Sender 'SMTP AUTH' {
            Test-SmtpAuth $Sender
        } {
            Set-CASMailbox -Identity $Sender -SmtpClientAuthenticationDisabled $false @Stop
        }
    }
}

# One mailbox: whoever opens it for gatepost may, and the protocols of the listeners are on.
function Set-MailboxFacts($App, [string] $Mailbox, [string] $Person, [string] $Principal) {
    if (-not (Test-Fact { Get-EXOMailbox -Identity $Mailbox @Stop })) {
        Add-Fact $Mailbox 'mailbox' $false 'Exchange knows no such mailbox; correct it in gatepost.toml'
        return
    }
    $trustee = $Person
    $name = $Person
    # By SMTP the person submits, for the shared mailbox.
    $sender = $Mailbox
    if ($Person) { $sender = $Person }
    if ($App.Roles.Count -gt 0) {
        $trustee = $Principal
        $name = $App.Title
    }
    if ($trustee) {
        Set-FullAccess $Mailbox $trustee $name
        if ($App.Protocols -contains 'smtp') { Set-SendAs $Mailbox $trustee $name }
    }
    Set-Protocols $App $Mailbox $sender
}

# All of an app in Exchange.
function Set-AppInExchange($App, $Ids) {
    try {
        $principal = ''
        if ($App.Roles.Count -gt 0) {
            if ($Ids.Principal) { $principal = Set-ExchangePrincipal $App $Ids }
            # What would be set can be shown before it can be set.
            if (-not $principal -and $WhatIfPreference) { $principal = $App.Title }
            if (-not $principal) {
                Add-Fact $App.Title 'access to its mailboxes' $false 'it needs the service principal first'
            }
        }
        $byGraph = @()
        foreach ($entry in $Mailboxes | Where-Object { $_.App -ceq $App.Name }) {
            $names = @(Get-MailboxNames $entry)
            if ($entry.Graph) { $byGraph += $names }
            if ($names.Count -eq 0) { Add-Fact $entry.Mailbox 'mailboxes of the domain' $false 'there are none' }
            foreach ($mailbox in $names) {
                Set-MailboxFacts $App $mailbox $entry.Person $principal
            }
        }
        if ($App.GraphRoles.Count -gt 0 -and $byGraph.Count -gt 0 -and $principal) {
            Set-GraphAccess $App $Ids $byGraph
        }
    } catch {
        Add-Fact $App.Title 'set-up in Exchange' $false $_.Exception.Message
    }
}

# ---- The check ----

function Show-Check {
    Write-Host ''
    Write-Host 'The check:'
    foreach ($item in $Facts) {
        Write-Host "  $($item.Mark.PadRight(8)) $($item.Subject): $($item.Fact)"
        if ($item.Mark -ne 'OK' -and $item.Remark) { Write-Host "           $($item.Remark)" }
    }
}

function Show-Values($App, $Ids, [string] $TenantId) {
    Write-Host ''
    Write-Host "For the app $($App.Name) in gatepost.toml:"
    Write-Host "  tenant    = `"$TenantId`""
    if ($Ids.ClientId) { Write-Host "  client_id = `"$($Ids.ClientId)`"" }
}

function Show-TenantSmtpAuth {
    $word = 'on'
    if ((Get-TransportConfig @Stop).SmtpClientAuthenticationDisabled) { $word = 'off' }
    Write-Host ''
    Write-Host "SMTP AUTH is $word for the tenant, and stays so: a mailbox's own setting goes before it."
}

# ---- What is done --------------------------------------------------------------------------------------

foreach ($module in 'Microsoft.Graph.Authentication', 'Microsoft.Graph.Applications', 'ExchangeOnlineManagement') {
    if (-not (Get-Module -ListAvailable -Name $module)) {
        throw "the module $module is missing: Install-Module $module -Scope CurrentUser"
    }
}

try {
    Open-EntraSession
    $tenantId = "$((Get-MgContext).TenantId)"
    foreach ($app in $Apps) { $app.Ids = Set-AppInEntra $app }

    Open-ExchangeSession $tenantId
    foreach ($app in $Apps) { Set-AppInExchange $app $app.Ids }

    foreach ($app in $Apps) {
        $registrationId = $app.Ids.Registration
        if ($registrationId) {
            if ($NewSecret -and $app.Credential -eq 'client_secret') { New-Secret $app $registrationId }
            if ($app.Credential) { Test-Credential $app $registrationId }
        }
    }
    Show-Check
    if (@($Apps | Where-Object { $_.Protocols -contains 'smtp' }).Count -gt 0) { Show-TenantSmtpAuth }
    foreach ($app in $Apps) { Show-Values $app $app.Ids $tenantId }
} finally {
    if (Get-Command -Name Disconnect-ExchangeOnline -ErrorAction SilentlyContinue) {
        Disconnect-ExchangeOnline -Confirm:$false
    }
    if (Get-MgContext) { Disconnect-MgGraph | Out-Null }
}

$missing = @($Facts | Where-Object { $_.Mark -ne 'OK' })
if ($missing.Count -gt 0 -and -not $WhatIfPreference) {
    throw "$($missing.Count) things are missing: see the check above"
}
